"""What every estimator is given."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dsdm.datamodel.gradients import mean_gradient
from dsdm.learners.factors import Factors
from dsdm.learners.layers import Layer
from dsdm.learners.protocol import Examples, Learner, Training

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class EstimatorInputs:
    """A model at a checkpoint, and what directions are estimated of."""

    learner: Learner
    """Reads the targets and the sample."""
    targets: Mapping[str, Examples]
    """The examples of each target that directions are fitted to."""
    pool: Examples
    """Where the sample and the calibration examples are drawn from."""
    weights: Mapping[str, float] | None = None
    """What each target counts for in the mix; None: all the same."""
    seed: int = 0
    """Draws the sample, projections and sampled labels. One for each proxy, so that the mean over
    proxies averages their luck too."""
    calibration_seed: int = 1
    """Draws the calibration examples: the same for every proxy, whose scores are compared."""
    embeddings: bool = True
    """Whether directions move tables too."""
    scorer: Learner | None = None
    """Reads candidates, in the precision that they are scored in; None: `learner`."""
    fingerprint: str = ""
    """The model's."""
    sample: Examples | None = None
    """A sample of the pool to use in place of the one that `seed` draws."""
    training: Training | None = None
    """The training that led to the model, for an estimator that needs it."""
    advance: Callable[[int], None] = lambda size: None
    """Called with the size of the examples read since the last call."""
    count_flops: Callable[[float], None] = lambda flops: None
    """Called with FLOPs that the estimator's registered cost leaves out."""

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers that directions move."""
        return [la for la in self.learner.layers() if self.embeddings or not la.is_table]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.learner.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that directions move."""
        return self.learner.model.get_parameter(self.layers[0].name).dtype

    def target_gradient(self, target: str) -> Tensors:
        """The mean gradient of what a target's direction is to raise, by parameter name."""
        names = [name for layer in self.layers for name in layer.parameter_names]
        gradient = mean_gradient(self.learner, self.targets[target], names)
        self.advance(int(self.learner.sizes(self.targets[target]).sum()))
        return gradient

    def sample_of(self, count: int) -> Examples:
        """The sample of the pool: `count` examples, all where there are fewer."""
        if self.sample is not None:
            return self.sample
        drawn = random_indices(self.learner.num(self.pool), count, self.seed)
        return self.learner.take(self.pool, drawn)

    def sample_factors(
        self,
        sample: Examples,
        labels: Literal["data", "sampled"] = "data",
        every: int = 1,
    ) -> Iterator[dict[str, Factors]]:
        """The layers' gradient factors for every batch of the sample, the same on every call.

        Args:
            sample: Of `sample_of`.
            labels: The examples' own, or those that the model draws.
            every: With 3, of a third of the examples.
        """
        learner = self.learner
        generator = torch.Generator(self.device).manual_seed(self.seed)
        some = learner.take(sample, np.arange(0, learner.num(sample), every))
        sizes = learner.sizes(some)
        for indices, data in learner.batches(some):
            batch = learner.sampled(data, generator) if labels == "sampled" else data
            yield learner.factors(batch, self.layers)
            self.advance(int(sizes[indices].sum()))


def random_indices(num: int, count: int, seed: int) -> Int[np.ndarray, " count"]:
    """`count` random numbers below `num`, sorted; all where there are fewer."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num, min(count, num), replace=False))
