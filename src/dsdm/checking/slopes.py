"""Slopes of rows' outputs, exact and by the run's own scorer, and the norms of their gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.data.sequences import Rows, WholeRows
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import exact_scores, score_backward, score_forward
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.factors import Factors, LayerFactors
from dsdm.learners.layers import Layer


def row_slopes(
    learner: CausalLM, directions: Sequence[Direction], rows: Rows
) -> Float[np.ndarray, "rows directions"]:
    """The slope of each row's output along each direction.

    In one backward pass where the directions move only layers and tables, else one by one.
    """
    covered = {name for layer in learner.layers() for name in layer.parameter_names}
    if all(set(direction.tensors) <= covered for direction in directions):
        return score_backward(learner, directions, rows)
    return np.stack([exact_scores(learner, direction, rows) for direction in directions], 1)


def target_slopes(
    learner: CausalLM, direction: Direction, examples: Rows
) -> Float[np.ndarray, " examples"]:
    """The slope of each example's output that the direction was made to raise.

    That is the answer's mean, with the learner's `context_share` of the context's mean.
    """
    answers = row_slopes(learner, [direction], examples)[:, 0]
    if learner.context_share == 0:
        return answers
    whole = row_slopes(learner, [direction], WholeRows(examples))[:, 0]
    rows = [examples.row(i) for i in range(len(examples.lengths))]
    predicted = np.array([len(row.tokens) - 1 for row in rows])
    answered = np.array([int(row.is_counted.sum()) for row in rows])
    in_context = predicted - answered
    contexts = (whole * predicted - answers * answered) / np.maximum(in_context, 1)
    shares = learner.context_share * (in_context > 0)
    return np.asarray((1 - shares) * answers + shares * contexts)


def scorer_slopes(
    learner: CausalLM, direction: Direction, step: ForwardStep | None, rows: Rows
) -> Float[np.ndarray, " rows"]:
    """Each row's score by the run's own scorer: forward at `step`, or backward where it is None."""
    if step is None:
        return row_slopes(learner, [direction], rows)[:, 0]
    return score_forward(learner.using(precision=step.precision), direction, rows, step.step)


def gradient_norms(
    learner: CausalLM, layers: Sequence[Layer], rows: Rows
) -> Float[np.ndarray, " rows"]:
    """The norm of each row's output gradient in `layers` together."""
    squares = np.zeros(len(rows.lengths))
    for indices, batch in learner.batches(rows):
        for factors in learner.factors(batch, layers).values():
            squares[indices] += _squared_norms(factors).double().cpu().numpy()
    return np.sqrt(squares)


def _squared_norms(factors: Factors) -> Float[Tensor, " batch"]:
    """The squared norm of each example's gradient sum_t g_t x_t^T."""
    if not isinstance(factors, LayerFactors) or _is_cheaper_formed(factors):
        return torch.cat([part.gradients().square().sum((1, 2)) for part in factors.parts()])
    # |sum_t g_t x_t^T|^2 = sum_st (g_s . g_t)(x_s . x_t)
    output_grads, inputs = factors.output_grads, factors.inputs
    products: Tensor = (output_grads @ output_grads.mT) * (inputs @ inputs.mT)
    # Rounding may leave a sum of squares just below 0.
    return products.sum((1, 2)).clamp(min=0)


def _is_cheaper_formed(factors: LayerFactors) -> bool:
    _, tokens, d_out = factors.output_grads.shape
    d_in = factors.inputs.shape[2]
    return tokens * (d_in + d_out) > d_in * d_out
