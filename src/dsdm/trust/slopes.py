"""Scores of some rows by the exact derivative, and the norms of the rows' gradients."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, iter_batches
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.gradients import factors_of, linear_layers
from dsdm.datamodel.scoring import exact_scores, score_backward, score_forward
from dsdm.lm.config import Output


def row_slopes(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
) -> Float[np.ndarray, "rows directions"]:
    """The slope of each row's output along each direction.

    In one backward pass where the directions move only linear layers, else one by one.
    """
    covered = {name for layer in linear_layers(model) for name in layer.parameter_names}
    if all(set(direction.tensors) <= covered for direction in directions):
        return score_backward(model, directions, rows, output, config)
    return np.stack(
        [exact_scores(model, d, rows, output, config.batch_tokens) for d in directions], 1
    )


def gradient_norms(
    model: PreTrainedModel, rows: Rows, output: Output, config: ScoresConfig
) -> Float[np.ndarray, " rows"]:
    """The norm of each row's output gradient in the linear layers' weights and biases."""
    layers = linear_layers(model)
    squares = np.zeros(len(rows.lengths))
    for indices, batch in iter_batches(rows, config.batch_tokens, model.device):
        factors = factors_of(model, layers, batch, output, config.precision)
        for layer in factors.values():
            gradients = layer.output_grads.transpose(1, 2) @ layer.inputs
            norms = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
            squares[indices] += norms.double().square().cpu().numpy()
    return np.sqrt(squares)


def scorer_slopes(
    model: PreTrainedModel,
    direction: Direction,
    step: float | None,
    rows: Rows,
    output: Output,
    config: ScoresConfig,
) -> Float[np.ndarray, " rows"]:
    """What the run's own scorer gives: forward with `step`, or backward where that is None."""
    if step is None:
        return row_slopes(model, [direction], rows, output, config)[:, 0]
    return score_forward(model, direction, rows, output, step, config)


def correlation(
    first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"]
) -> float | None:
    """Pearson's correlation; None where a column is constant."""
    if not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def scored_direction(
    steps: Mapping[str, Mapping[str, float]], mix: str
) -> tuple[str, float | None]:
    """A direction that the run scores by itself and its forward step; None: scored backward."""
    if not steps:
        return mix, None
    name = mix if mix in steps else next(iter(steps))
    return name, steps[name]["step"]
