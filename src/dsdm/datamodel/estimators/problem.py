"""What every estimator is given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, Subset, iter_batches
from dsdm.datamodel.config import DirectionsConfig, Labels
from dsdm.datamodel.gradients import Factors, factors_of, mean_gradient
from dsdm.datamodel.layers import Layer
from dsdm.lm.outputs import sampled_labels

Tensors = dict[str, Tensor]


def target_gradient(
    model: PreTrainedModel, rows: Rows, config: DirectionsConfig, names: Sequence[str]
) -> Tensors:
    """The mean output gradient of a target's rows in the named parameters, as it is asked for."""
    return mean_gradient(
        model,
        rows,
        config.output,
        names,
        batch_tokens=config.batch_tokens,
        precision=config.precision,
        context_share=config.context_share,
    )


@dataclass(frozen=True)
class Problem:
    """One proxy, the targets' rows to fit, and the sample of the pool for its curvature."""

    model: PreTrainedModel
    layers: list[Layer]
    targets: Mapping[str, Rows]
    sample: Rows
    advance: Callable[[int], None] = lambda tokens: None
    """Called with the tokens done since the last call."""

    def target_gradient(self, target: str, config: DirectionsConfig) -> Tensors:
        """The mean output gradient of one target, by parameter name."""
        names = [name for layer in self.layers for name in layer.parameter_names]
        gradient = target_gradient(self.model, self.targets[target], config, names)
        self.advance(int(self.targets[target].lengths.sum()))
        return gradient

    def sample_factors(
        self, config: DirectionsConfig, labels: Labels, every: int = 1
    ) -> Iterator[dict[str, Factors]]:
        """The layers' gradient factors for every batch of the sample, the same on every call.

        At the rows' own next tokens, or at tokens drawn from the proxy. With `every` 3, of a third
        of the rows.
        """
        device = self.model.device
        generator = torch.Generator(device).manual_seed(config.seed)
        sample = Subset(self.sample, np.arange(0, len(self.sample.lengths), every))
        for indices, data in iter_batches(sample, config.batch_tokens, device):
            is_sampled = labels == "sampled"
            batch = sampled_labels(self.model, data, generator) if is_sampled else data
            yield factors_of(self.model, self.layers, batch, config.output, config.precision)
            self.advance(int(sample.lengths[indices].sum()))
