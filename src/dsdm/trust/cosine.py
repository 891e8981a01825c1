"""Cosines: the gradient's score without the length of the candidate's gradient.

Not linear in the candidate's gradient, so no direction gives it and it needs the backward pass.
Dot products are won by candidates with long gradients, such as short or garbled ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, iter_batches
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.gradients import Factors, LayerFactors, factors_of
from dsdm.datamodel.layers import Layer, layers_named
from dsdm.datamodel.scoring import Advance, score_backward
from dsdm.lm.config import Output


def cosine_scores(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
    advance: Advance = lambda rows: None,
) -> Float[np.ndarray, "rows directions"]:
    """<u, g> / (|u| |g|) of each row's output gradient g and each direction u, in -1..1.

    Over the layers that the directions move, all the same. A row without any gradient has 0. Two
    passes over the rows; `advance` is told of the first.
    """
    slopes = score_backward(model, directions, rows, output, config, advance)
    lengths = torch.stack([_length(direction) for direction in directions]).cpu().numpy()
    layers = layers_named(model, directions[0].tensors)
    scale = np.outer(gradient_norms(model, layers, rows, output, config), lengths)
    return np.asarray(np.divide(slopes, scale, out=np.zeros_like(slopes), where=scale > 0))


def gradient_norms(
    model: PreTrainedModel,
    layers: Sequence[Layer],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
) -> Float[np.ndarray, " rows"]:
    """The norm of each row's output gradient in some of the model's layers."""
    squares = np.zeros(len(rows.lengths))
    for indices, batch in iter_batches(rows, config.batch_tokens, model.device):
        for factors in factors_of(model, layers, batch, output, config.precision).values():
            squares[indices] += _squared_norms(factors).double().cpu().numpy()
    return np.sqrt(squares)


def _squared_norms(factors: Factors) -> Float[Tensor, " batch"]:
    """|sum_t g_t x_t^T|^2 of each example, without forming it where the row is short."""
    if not isinstance(factors, LayerFactors) or _is_cheaper_formed(factors):
        parts = [part.gradients().square().sum((1, 2)) for part in factors.parts()]
        return torch.cat(parts)
    output_grads, inputs = factors.output_grads, factors.inputs
    products: Tensor = (output_grads @ output_grads.mT) * (inputs @ inputs.mT)
    # Rounding may leave a sum of squares just below 0.
    return products.sum((1, 2)).clamp(min=0)


def _is_cheaper_formed(factors: LayerFactors) -> bool:
    _, tokens, d_out = factors.output_grads.shape
    d_in = factors.inputs.shape[2]
    return tokens * (d_in + d_out) > d_in * d_out


def _length(direction: Direction) -> Tensor:
    norms = [tensor.double().norm() for tensor in direction.tensors.values()]
    length: Tensor = torch.stack(norms).norm()
    return length
