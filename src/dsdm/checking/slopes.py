"""Slopes of some rows' outputs, by the exact derivative and by the run's own scorer."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsdm.data.sequences import Rows, WholeRows
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import exact_scores, score_backward, score_forward
from dsdm.learners.causal_lm import CausalLM


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
    """The slope of what the direction was made to raise: answers, and contexts by their share."""
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
    """What the run's own scorer gives: forward as `step` says, or backward where that is None."""
    if step is None:
        return row_slopes(learner, [direction], rows)[:, 0]
    return score_forward(learner.using(precision=step.precision), direction, rows, step.step)


def correlation(
    first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"]
) -> float | None:
    """Pearson's correlation; None where a column is constant."""
    if not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def scored_direction(steps: Mapping[str, ForwardStep], mix: str) -> tuple[str, ForwardStep | None]:
    """A direction that the run scores by itself and its forward step; None: scored backward."""
    if not steps:
        return mix, None
    name = mix if mix in steps else next(iter(steps))
    return name, steps[name]
