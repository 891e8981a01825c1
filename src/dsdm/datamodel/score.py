"""Scores of examples along every estimator's directions at every checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.config import MIX, ScoresConfig, scored_targets, scores_forward
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimate import Estimated
from dsdm.datamodel.scoring import (
    BACKWARD_PASSES,
    FORWARD_PASSES,
    Advance,
    cosine_scores,
    score_backward,
    score_forward,
)
from dsdm.learners.protocol import Examples, Learner

WINDOW = 1 << 16
"""Examples that are sorted by size and scored together."""

Checkpoint = Callable[[], tuple[Learner, Mapping[str, Estimated]]]
"""Opens a checkpoint: the model, as it reads candidates, and what each estimator gave there."""
Allocate = Callable[[ScoreColumn, int], np.ndarray]
"""Makes an array of so many float32 for a column."""
Columns = dict[ScoreColumn, np.ndarray]


def score_examples(
    examples: Examples,
    checkpoints: Iterable[Checkpoint],
    weights: Mapping[str, float],
    config: ScoresConfig,
    *,
    allocate: Allocate = lambda column, count: np.zeros(count, np.float32),
    advance: Advance = lambda count: None,
) -> tuple[Columns, float]:
    """One column for each estimator, checkpoint and target, and the FLOPs that they took.

    Slopes are in units of the direction's spread.

    Args:
        examples: What to score.
        checkpoints: Opened one after the other, in the order of their numbers.
        weights: What each target counts for in the mix.
        config: Forward, backward or cosines, and what is scored by itself.
        allocate: Makes the columns; mapped files keep memory from growing with the examples.
        advance: Called with the examples scored since the last call.
    """
    columns: Columns = {}
    flops = 0.0
    for number, open_checkpoint in enumerate(checkpoints):
        learner, estimated = open_checkpoint()
        directions = [
            (one.directions[target], one.calibration.steps.get(target))
            for one in estimated.values()
            for target in needed_targets(list(weights), config)
            if target in one.directions  # a target may have fewer examples than are asked for
        ]
        count = learner.num(examples)
        for start in range(0, count, WINDOW):
            window = np.arange(start, min(start + WINDOW, count))
            part = learner.take(examples, window)
            scores, passes = _score(learner, part, directions, config, advance)
            for (estimator, target), values in _with_mix(scores, estimated, weights).items():
                is_example = target != MIX and target not in weights
                column = ScoreColumn(estimator, number, target, is_example)
                if column not in columns:
                    columns[column] = allocate(column, count)
                columns[column][window] = values
            sizes = learner.sizes(part)
            flops += passes * float(sizes.sum()) * learner.pass_flops(int(sizes.max()))
    return columns, flops


def needed_targets(targets: Sequence[str], config: ScoresConfig) -> list[str]:
    """The targets whose directions `score_examples` reads, MIX for the mix."""
    wanted = scored_targets(list(targets), config)
    # A mix of cosines is no sum of cosines.
    return [*wanted, MIX] if config.cosine and MIX not in wanted else wanted


Named = dict[tuple[str, str], Float[np.ndarray, " examples"]]
"""By estimator and target."""


def _score(
    learner: Learner,
    examples: Examples,
    directions: Sequence[tuple[Direction, ForwardStep | None]],
    config: ScoresConfig,
    advance: Advance,
) -> tuple[Named, float]:
    """The scores along all directions, and their cost in forward passes."""
    alone = [direction for direction, _ in directions]
    names = [(direction.estimator, direction.target) for direction in alone]
    if config.cosine:
        found = cosine_scores(learner, alone, examples, advance)
        return dict(zip(names, found.T, strict=True)), BACKWARD_PASSES
    if not scores_forward(config, len(alone)):
        found = score_backward(learner, alone, examples, advance)
        return dict(zip(names, found.T, strict=True)), BACKWARD_PASSES
    scores = {}
    for name, (direction, step) in zip(names, directions, strict=True):
        assert step is not None, f"{direction.target} was not estimated to be scored forward"
        reader = learner.using(precision=step.precision)
        scores[name] = score_forward(reader, direction, examples, step.step, advance)
    return scores, FORWARD_PASSES * len(alone)


def _with_mix(
    scores: Named, estimated: Mapping[str, Estimated], weights: Mapping[str, float]
) -> Named:
    """Adds the mix where only targets were scored: it is their weighted sum at unit spread."""
    for estimator, one in estimated.items():
        if (estimator, MIX) not in scores:
            total = sum(weight * scores[estimator, target] for target, weight in weights.items())
            scores[estimator, MIX] = np.asarray(total / one.calibration.mix_spread)
    return scores
