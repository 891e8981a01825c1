"""Scores that see the direction of a candidate's gradient and not its length.

Not linear in the candidate's gradient, so no step of the weights gives them and they need the
backward pass. Slopes favour candidates with long gradients, which short completions have.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, iter_batches
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.gradients import Factors, factors_of
from dsdm.datamodel.layers import Layer, layers_named
from dsdm.datamodel.scoring import finite
from dsdm.lm.config import Output
from dsdm.lm.moments import Moments

EPSILON = 1e-8
"""Of LESS, added to the second moment before its root is taken."""

Change = Callable[[Layer, Float[Tensor, "batch d_out d_in"]], Float[Tensor, "batch d_out d_in"]]
"""What is done to the examples' gradients in one layer before they are compared."""


class AdamSteps:
    """The step that Adam would take for one example alone, up to the learning rate.

    LESS's Gamma = m' / sqrt(v' + eps), where m' = (b1 m + (1 - b1) g) / (1 - b1^t) and
    v' = (b2 v + (1 - b2) g^2) / (1 - b2^t), with the training's own moments m and v after t steps.
    """

    def __init__(self, moments: Moments) -> None:
        # The moments are of the loss, the gradients here of what falls with it.
        self._first = {name: -tensor for name, tensor in moments.first.items()}
        self._second = moments.second
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


def score_unit(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
    *,
    change: Change = lambda layer, gradients: gradients,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "rows directions"]:
    """<u, g> / |g| of each row's output gradient g, after `change`, and each direction u.

    Over the layers that the directions move, all the same. A row without any gradient has 0.
    """
    layers = layers_named(model, directions[0].tensors)
    stacks = {
        layer.name: torch.stack([layer.to_matrix(d.tensors).flatten() for d in directions], 1)
        for layer in layers
    }
    scores = np.zeros((len(rows.lengths), len(directions)))
    for indices, batch in iter_batches(rows, config.batch_tokens, model.device):
        factors = factors_of(model, layers, batch, output, config.precision)
        products = torch.zeros(len(indices), len(directions), dtype=torch.float64)
        squares = torch.zeros(len(indices), 1, dtype=torch.float64)
        for layer in layers:
            found = _contract(factors[layer.name], layer, stacks[layer.name], change)
            products += found[0].double().cpu()
            squares += found[1].double().cpu()
        lengths = squares.sqrt()
        scores[indices] = torch.where(lengths == 0, 0.0, products / lengths).numpy()
        advance(len(indices))
    return finite(scores, directions[0].method)


def cosine_scores(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "rows directions"]:
    """<u, g> / (|u| |g|) of each row's output gradient g and each direction u, in -1..1."""
    scores = score_unit(model, directions, rows, output, config, advance=advance)
    return np.asarray(scores / [_length(direction) for direction in directions])


def _length(direction: Direction) -> float:
    return float(torch.stack([t.double().norm() for t in direction.tensors.values()]).norm())


def _contract(
    factors: Factors, layer: Layer, stack: Float[Tensor, "numbers directions"], change: Change
) -> tuple[Float[Tensor, "batch directions"], Float[Tensor, "batch 1"]]:
    """Inner products with the directions in one layer, and squared lengths."""
    products, squares = [], []
    for part in factors.parts():
        gradients = change(layer, part.gradients()).flatten(1)
        products.append(gradients @ stack.to(gradients))
        squares.append(gradients.square().sum(1, keepdim=True))
    return torch.cat(products), torch.cat(squares)
