"""LESS (Xia et al., ICML 2024, arXiv:2402.04333): one direction for each task at one checkpoint.

The paper's score of candidate x for a task is, over the checkpoints i of one training,

    sum_i eta_i mean_z cos(grad l(z; theta_i), Gamma(x; theta_i))

where eta_i is the mean learning rate that led to a checkpoint and Gamma the step that Adam would
take for x alone (`cosines.AdamSteps`). The cosine is linear in the task's examples once each has
unit length, so their mean is a direction, and a task costs as much as one example.

Differs from the paper: gradients are exact, in the layers that directions move (the adapters'
where there are some), instead of projected to 8,192 random dimensions; the weights eta_i add to 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.data.batches import iter_batches
from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.estimators.problem import Problem, Tensors
from dsdm.datamodel.gradients import Factors, factors_of


def estimate_less(problem: Problem, config: DirectionsConfig) -> dict[str, Tensors]:
    """The mean of each target's examples' gradients at unit length.

    Of log p over answers, as in the paper, whatever output and context the others take.
    """
    return {target: _mean_unit_gradient(problem, target, config) for target in problem.targets}


def _mean_unit_gradient(problem: Problem, target: str, config: DirectionsConfig) -> Tensors:
    rows, device = problem.targets[target], problem.model.device
    sums = {
        layer.name: torch.zeros(layer.d_out, layer.d_in, dtype=torch.float64, device=device)
        for layer in problem.layers
    }
    for _, batch in iter_batches(rows, config.batch_tokens, device):
        factors = factors_of(problem.model, problem.layers, batch, "loglik", config.precision)
        lengths = torch.stack([_squares(one) for one in factors.values()]).sum(0).sqrt()
        # An example that teaches nothing points nowhere.
        units = torch.where(lengths == 0, 0.0, 1 / lengths)
        for name, one in factors.items():
            sums[name] += _weighted_sum(one, units)
    problem.advance(int(rows.lengths.sum()))
    tensors: Tensors = {}
    for layer in problem.layers:
        mean = sums[layer.name] / len(rows.lengths)
        tensors |= layer.from_matrix(mean.to(problem.model.dtype))
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
