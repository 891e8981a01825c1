"""Scores of candidates: the slope of their output along a direction, forward or backward.

`score_forward` takes two forward passes for each direction; `score_backward` one forward and one
backward pass for all directions, where they move only layers and tables. Both give the same.
`cosine_scores` sees the direction of a candidate's gradient and not its length.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsdm.datamodel.direction import Direction
from dsdm.errors import NumericalError
from dsdm.learners.factors import Factors
from dsdm.learners.layers import Layer
from dsdm.learners.protocol import Batch, Examples, Learner, Tensors

EXACT_PASSES = 4.0
"""What an exact slope costs in forward passes: forward mode, plain attention and logits."""
FORWARD_PASSES = 2.0
"""What forward scoring costs for each direction."""
BACKWARD_PASSES = 3.0
"""What backward scoring costs in forward passes, whatever the number of directions: forward,
backward without weight gradients, and the examples' gradients, which serve every direction."""

Advance = Callable[[int], None]
Change = Callable[[Layer, Float[Tensor, "batch d_out d_in"]], Float[Tensor, "batch d_out d_in"]]
"""What is done to the examples' gradients in one layer before they are compared."""


def score_forward(
    learner: Learner,
    direction: Direction,
    examples: Examples,
    step: float,
    advance: Advance = lambda count: None,
) -> Float[np.ndarray, " examples"]:
    """(f(theta + step u) - f(theta - step u)) / (2 step) for every example, per unit of u."""
    scores = np.zeros(learner.num(examples))
    for indices, slopes in forward_slopes(learner, direction, examples, step, learner.outputs):
        scores[indices] = slopes
        advance(len(indices))
    return require_finite(scores, direction.estimator)


def forward_slopes(
    learner: Learner,
    direction: Direction,
    examples: Examples,
    step: float,
    outputs: Callable[[nn.Module, Batch], Tensor],
) -> Iterator[tuple[Int[np.ndarray, " batch"], Float[np.ndarray, "batch *each"]]]:
    """The slopes along a direction of what `outputs` gives, with the examples that they are of."""
    above, below = (perturbed(learner.model, direction.tensors, by) for by in (step, -step))
    for indices, batch in learner.batches(examples, forward_only=True):
        with torch.inference_mode():
            # Differences are taken in fp64: both outputs are near each other.
            upper, lower = outputs(above, batch).double(), outputs(below, batch).double()
            slopes = ((upper - lower) / (2 * step)).cpu().numpy()
        yield indices, slopes


def score_backward(
    learner: Learner,
    directions: Sequence[Direction],
    examples: Examples,
    advance: Advance = lambda count: None,
) -> Float[np.ndarray, "examples directions"]:
    """The exact slope of every example's output along each direction, in one pass.

    Directions must move the same parameters, those of layers and tables alone. Scores along one
    estimator's directions do not depend, to the last bit, on which others' are given.
    """
    layers = layers_named(learner, directions[0].tensors)
    by_estimator: dict[str, list[int]] = {}
    for number, direction in enumerate(directions):
        by_estimator.setdefault(direction.estimator, []).append(number)
    columns = np.array([number for numbers in by_estimator.values() for number in numbers])
    stacks = {
        layer.name: [
            torch.stack([layer.to_matrix(directions[i].tensors) for i in numbers])
            for numbers in by_estimator.values()
        ]
        for layer in layers
    }
    scores = np.zeros((learner.num(examples), len(directions)))
    for indices, batch in learner.batches(examples):
        factors = learner.factors(batch, layers)
        slopes = sum(_contract(one, stacks[name]) for name, one in factors.items())
        scores[np.ix_(indices, columns)] = slopes.double().cpu().numpy()  # type: ignore[union-attr]
        advance(len(indices))
    return require_finite(scores, directions[0].estimator)


def cosine_scores(
    learner: Learner,
    directions: Sequence[Direction],
    examples: Examples,
    advance: Advance = lambda count: None,
) -> Float[np.ndarray, "examples directions"]:
    """<u, g> / (|u| |g|) of each example's output gradient g and each direction u, in -1..1.

    No step of the weights gives it, so it takes a backward pass. Slopes favour candidates with long
    gradients, which short completions have.
    """
    scores = unit_scores(learner, directions, examples, advance=advance)
    lengths = [
        float(torch.stack([tensor.double().norm() for tensor in one.tensors.values()]).norm())
        for one in directions
    ]
    return np.asarray(scores / lengths)


def unit_scores(
    learner: Learner,
    directions: Sequence[Direction],
    examples: Examples,
    *,
    change: Change = lambda layer, gradients: gradients,
    advance: Advance = lambda count: None,
) -> Float[np.ndarray, "examples directions"]:
    """<u, g> / |g| of each example's output gradient g, after `change`, and each direction u.

    Over the layers that the directions move, all the same. An example without gradient has 0.
    """
    layers = layers_named(learner, directions[0].tensors)
    stacks = {
        layer.name: torch.stack([layer.to_matrix(d.tensors).flatten() for d in directions], 1)
        for layer in layers
    }
    scores = np.zeros((learner.num(examples), len(directions)))
    for indices, batch in learner.batches(examples):
        factors = learner.factors(batch, layers)
        products = torch.zeros(len(indices), len(directions), dtype=torch.float64)
        squares = torch.zeros(len(indices), 1, dtype=torch.float64)
        for layer in layers:
            found = _changed(factors[layer.name], layer, stacks[layer.name], change)
            products += found[0].double().cpu()
            squares += found[1].double().cpu()
        lengths = squares.sqrt()
        scores[indices] = torch.where(lengths == 0, 0.0, products / lengths).numpy()
        advance(len(indices))
    return require_finite(scores, directions[0].estimator)


def exact_scores(
    learner: Learner, direction: Direction, examples: Examples
) -> Float[np.ndarray, " examples"]:
    """The slope by forward-mode differentiation, in the weights' own precision.

    For any parameters; about as costly as a training step. The oracle for both scorers.
    """
    named = dict(learner.model.named_parameters())
    names = list(direction.tensors)
    weights = tuple(named[name].detach() for name in names)
    tangents = tuple(direction.tensors[name].to(named[name]) for name in names)
    scores = np.zeros(learner.num(examples))
    for indices, batch in learner.batches(examples):
        outputs = partial(_outputs_of_weights, _PlainOutputs(learner, batch), names)
        # Only the plain attention kernel has a forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            slopes = torch.func.jvp(outputs, weights, tangents)[1]
        scores[indices] = slopes.double().cpu().numpy()
    return require_finite(scores, direction.estimator)


def perturbed(model: nn.Module, tensors: Tensors, step: float) -> nn.Module:
    """A copy of the model moved by `step` along the tensors; unmoved parameters are shared."""
    shared = {id(p): p for name, p in model.named_parameters() if name not in tensors}
    moved: nn.Module = copy.deepcopy(model, memo=shared)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name in tensors:
                parameter.add_(tensors[name].to(parameter), alpha=step)
    return moved


def layers_named(learner: Learner, tensors: Tensors) -> list[Layer]:
    """The layers whose parameters are among the tensors.

    Raises:
        ValueError: a tensor is of another parameter.
    """
    layers = [layer for layer in learner.layers() if layer.name in tensors]
    if set(tensors) - {name for layer in layers for name in layer.parameter_names}:
        raise ValueError("a direction moves parameters that are neither in a layer nor in a table")
    return layers


def require_finite(scores: np.ndarray, estimator: str) -> np.ndarray:
    """The scores; raises NumericalError where an example has one that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(scores.reshape(len(scores), -1)).all(1))
    if len(bad):
        raise NumericalError(
            f"{estimator}: {len(bad)} of {len(scores)} scores are NaN or infinite, the first at "
            f"row {bad[0]}. Check the proxy's weights and training loss."
        )
    return scores


class _PlainOutputs(nn.Module):
    """`plain_outputs` of a batch as a module, so that `functional_call` can swap the weights."""

    def __init__(self, learner: Learner, batch: Batch) -> None:
        super().__init__()
        self.model, self.learner, self.batch = learner.model, learner, batch

    def forward(self) -> Float[Tensor, " batch"]:
        return self.learner.plain_outputs(self.model, self.batch)


def _outputs_of_weights(
    outputs: _PlainOutputs, names: Sequence[str], *weights: Tensor
) -> Float[Tensor, " batch"]:
    prefixed = {f"model.{name}": weight for name, weight in zip(names, weights, strict=True)}
    values: Tensor = torch.func.functional_call(outputs, prefixed, ())
    return values


def _contract(
    factors: Factors, stacks: Sequence[Float[Tensor, "_ d_out d_in"]]
) -> Float[Tensor, "batch all_directions"]:
    """sum_t g_t^T U x_t for each example and direction U.

    The examples' gradients are formed once for all directions; each stack is applied to them by
    itself, because a matrix product's rounding depends on its width.
    """
    slopes = []
    for part in factors.parts():
        gradients = part.gradients().flatten(1)
        products = [gradients @ stack.to(gradients.dtype).flatten(1).T for stack in stacks]
        slopes.append(torch.cat(products, 1))
    return torch.cat(slopes)


def _changed(
    factors: Factors, layer: Layer, stack: Float[Tensor, "numbers directions"], change: Change
) -> tuple[Float[Tensor, "batch directions"], Float[Tensor, "batch 1"]]:
    """Inner products with the directions in one layer after `change`, and squared lengths."""
    products, squares = [], []
    for part in factors.parts():
        gradients = change(layer, part.gradients()).flatten(1)
        products.append(gradients @ stack.to(gradients))
        squares.append(gradients.square().sum(1, keepdim=True))
    return torch.cat(products), torch.cat(squares)
