"""The mathematics of LESS (Xia et al., ICML 2024, arXiv:2402.04333).

The paper's score of candidate x for a target is, over the checkpoints i of one training,

    sum_i eta_i mean_z cos(grad l(z; theta_i), Gamma(x; theta_i))

where eta_i is the mean learning rate that led to a checkpoint and Gamma the step that Adam would
take for x alone. The cosine is linear in the target's examples once each has unit length, so their
mean is compared, and a target costs as much as one example. It is not linear in the candidate's
gradient, so there is no direction that slopes could be taken along.

Differs from the paper: gradients are exact, in the linear layers and tables (the adapters' where
there are some), instead of projected to 8,192 random dimensions; the weights eta_i add to 1, and
several proxies count the same.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.less import LessConfig
from dsdm.data.sequences import Subset
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.groups import checkpoint_mean, weighted_means
from dsdm.datamodel.scoring import BACKWARD_PASSES, unit_scores
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.factors import Factors
from dsdm.learners.layers import Layer
from dsdm.learners.protocol import Examples, Learner, Tensors
from dsdm.lm.moments import Moments, load_moments
from dsdm.selection import Scores

EPSILON = 1e-8
"""Added to the second moment before its root is taken."""
WINDOW_ROWS = 1 << 16
"""Rows that are sorted by length and scored together."""


def less_scores(inputs: BaselineInputs, settings: LessConfig) -> Scores:
    """The best of the targets' LESS scores, each the weighted mean over the proxies' checkpoints.

    One pass of `inputs.advance` a checkpoint. Targets without weight do not count.
    """
    targets = [name for name, weight in inputs.weights.items() if weight > 0]
    lengths = inputs.rows.lengths
    predictions = np.maximum(lengths - 1, 1).astype(np.float64)
    is_first = np.diff(inputs.candidate_of_row, prepend=-1) > 0
    by_checkpoint = []
    for checkpoint in inputs.checkpoints:
        model = checkpoint.load()
        # Of log p over answers, as in the paper, whatever output and context estimators take.
        learner = CausalLM(model, "loglik", context_share=0.0, batch_tokens=settings.batch_tokens)
        layers = [la for la in learner.layers() if settings.embeddings or not la.is_table]
        directions = [
            Direction(mean_unit_gradient(learner, inputs.target_rows[name], layers), "less", name)
            for name in targets
        ]
        moments = load_moments(checkpoint.folder, model.device)
        steps = AdamSteps(moments, dict(model.named_parameters()))
        scorer = learner.using(precision=settings.precision)
        scores = np.zeros((len(lengths), len(targets)), np.float32)
        for start in range(0, len(lengths), WINDOW_ROWS):
            window = np.arange(start, min(start + WINDOW_ROWS, len(lengths)))
            part = Subset(inputs.rows, window)
            scores[window] = unit_scores(scorer, directions, part, change=steps)
            row_flops = learner.pass_flops(int(part.lengths.max()))
            inputs.count_flops(BACKWARD_PASSES * float(part.lengths.sum()) * row_flops)
            inputs.advance(int(is_first[window].sum()))
        by_checkpoint.append(
            [
                weighted_means(column, predictions, inputs.candidate_of_row, inputs.num_candidates)
                for column in scores.T
            ]
        )
    weights = np.array([checkpoint.weight for checkpoint in inputs.checkpoints])
    means = [checkpoint_mean(of_target, weights) for of_target in zip(*by_checkpoint, strict=True)]
    return inputs.scores(np.max(means, axis=0), "less")


class AdamSteps:
    """The step that Adam would take for one example alone, up to the learning rate.

    Gamma = m' / sqrt(v' + eps), where m' = (b1 m + (1 - b1) g) / (1 - b1^t) and
    v' = (b2 v + (1 - b2) g^2) / (1 - b2^t), with the training's own moments m and v after t steps.
    """

    def __init__(self, moments: Moments, parameters: Mapping[str, Tensor]) -> None:
        """Of a training of `parameters`; those without moments have had no gradient."""
        zeros = {n: torch.zeros_like(p) for n, p in parameters.items() if n not in moments.first}
        # The moments are of the loss, the gradients here of what falls with it.
        self._first = zeros | {name: -tensor for name, tensor in moments.first.items()}
        self._second = zeros | dict(moments.second)
        self._betas = moments.betas
        self._steps = moments.steps

    def __call__(
        self, layer: Layer, gradients: Float[Tensor, "batch d_out d_in"]
    ) -> Float[Tensor, "batch d_out d_in"]:
        """The steps for a batch's gradients of log p in one layer."""
        (b1, b2), t = self._betas, self._steps
        first = layer.to_matrix(self._first).to(gradients)
        second = layer.to_matrix(self._second).to(gradients)
        m = (b1 * first + (1 - b1) * gradients) / (1 - b1**t)
        v = (b2 * second + (1 - b2) * gradients.square()) / (1 - b2**t)
        return m / (v + EPSILON).sqrt()


def mean_unit_gradient(learner: Learner, examples: Examples, layers: Sequence[Layer]) -> Tensors:
    """The mean of the examples' gradients at unit length, by parameter name."""
    model = learner.model
    device, dtype = (getattr(next(model.parameters()), name) for name in ("device", "dtype"))
    sums = {
        layer.name: torch.zeros(layer.d_out, layer.d_in, dtype=torch.float64, device=device)
        for layer in layers
    }
    for _, batch in learner.batches(examples):
        factors = learner.factors(batch, layers)
        lengths = torch.stack([_squares(one) for one in factors.values()]).sum(0).sqrt()
        # An example that teaches nothing points nowhere.
        units = torch.where(lengths == 0, 0.0, 1 / lengths)
        for name, one in factors.items():
            sums[name] += _weighted_sum(one, units)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        mean = sums[layer.name] / learner.num(examples)
        tensors |= layer.from_matrix(mean.to(dtype))
    return tensors


def _squares(factors: Factors) -> Float[Tensor, " batch"]:
    """The squared length of each example's gradient in one layer, fp64."""
    return torch.cat([part.gradients().double().square().sum((1, 2)) for part in factors.parts()])


def _weighted_sum(
    factors: Factors, weights: Float[Tensor, " batch"]
) -> Float[Tensor, "d_out d_in"]:
    """The sum of the examples' gradients in one layer, each times its weight, fp64."""
    first, total = 0, torch.zeros(1, dtype=torch.float64, device=weights.device)
    for part in factors.parts():
        gradients = part.gradients().double()
        total = total + torch.einsum(
            "b,boi->oi", weights[first : first + len(gradients)], gradients
        )
        first += len(gradients)
    return total
