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
from dsdm.datamodel.gradients import factors_of, linear_layers
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

    Over the layers of `gradients.linear_layers`, which the directions must move and no others. A
    row without any gradient has 0. Two passes over the rows; `advance` is told of the first.
    """
    slopes = score_backward(model, directions, rows, output, config, advance)
    lengths = torch.stack([_length(direction) for direction in directions]).cpu().numpy()
    scale = np.outer(gradient_norms(model, rows, output, config), lengths)
    return np.asarray(np.divide(slopes, scale, out=np.zeros_like(slopes), where=scale > 0))


def gradient_norms(
    model: PreTrainedModel, rows: Rows, output: Output, config: ScoresConfig
) -> Float[np.ndarray, " rows"]:
    """The norm of each row's output gradient in the model's linear layers."""
    layers = linear_layers(model)
    squares = np.zeros(len(rows.lengths))
    for indices, batch in iter_batches(rows, config.batch_tokens, model.device):
        for factors in factors_of(model, layers, batch, output, config.precision).values():
            found = _squared_norms(factors.output_grads, factors.inputs)
            squares[indices] += found.double().cpu().numpy()
    return np.sqrt(squares)


def _squared_norms(
    output_grads: Float[Tensor, "batch tokens d_out"], inputs: Float[Tensor, "batch tokens d_in"]
) -> Float[Tensor, " batch"]:
    """|sum_t g_t x_t^T|^2 of each example, without forming it where the row is short."""
    _, tokens, d_out = output_grads.shape
    d_in = inputs.shape[2]
    if tokens * (d_in + d_out) > d_in * d_out:
        return (output_grads.transpose(1, 2) @ inputs).square().sum((1, 2))
    products: Tensor = (output_grads @ output_grads.mT) * (inputs @ inputs.mT)
    # Rounding may leave a sum of squares just below 0.
    return products.sum((1, 2)).clamp(min=0)


def _length(direction: Direction) -> Tensor:
    norms = [tensor.double().norm() for tensor in direction.tensors.values()]
    length: Tensor = torch.stack(norms).norm()
    return length
