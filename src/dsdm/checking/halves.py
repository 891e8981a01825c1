"""Directions of two random halves of each target: how much the choice of examples decides."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsdm.checking.measured import Agreement
from dsdm.checking.reliability import agreement, mixed
from dsdm.config import Config
from dsdm.data.sequences import Rows, Subset
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import known_estimator
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.errors import DataError

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def split_halves(rows: Rows, seed: int) -> tuple[Subset, Subset]:
    """Two random halves; the second has one more where the number is odd.

    Examples that share a passage may fall on both sides, so halves agree somewhat too well.

    Raises:
        DataError: there are fewer than two rows.
    """
    count = len(rows.lengths)
    if count < 2:
        raise DataError(
            f"a target whose fit part has {count} example has no halves to compare: `dsdm check` "
            "needs two. Give more examples, or a larger share of them in `split`."
        )
    order = np.random.default_rng(seed).permutation(count)
    return Subset(rows, np.sort(order[: count // 2])), Subset(rows, np.sort(order[count // 2 :]))


Pairs = Mapping[str, tuple[Rows, Rows]]
"""The halves of each target."""


def half_directions(
    inputs: EstimatorInputs, estimator: str, settings: Config, halves: Pairs
) -> dict[str, tuple[Direction, Direction]]:
    """Both halves' directions of each target, under one curvature, at the estimator's own scale.

    Of an estimator that follows a training, at its last checkpoint.

    Args:
        inputs: As the run's directions have them; the targets are left out.
        estimator: Whose directions.
        settings: Its settings.
        halves: The halves of each target.
    """
    named = {f"{name}/{i}": pair[i] for name, pair in halves.items() for i in (0, 1)}
    known = known_estimator(estimator)
    found = known.estimate(dataclasses.replace(inputs, targets=named), settings)
    tensors = found[-1] if known.needs_training else found
    directions = {name: Direction(one, estimator, name) for name, one in tensors.items()}
    return {name: (directions[f"{name}/0"], directions[f"{name}/1"]) for name in halves}


def agreement_of_halves(
    first: Columns, second: Columns, weights: Mapping[str, float]
) -> list[Agreement]:
    """The agreement of the halves' scores for the mix, where there are targets, and for each."""
    mixes = [mixed(first, weights), mixed(second, weights)]
    targets = [agreement(name, [first[name], second[name]], 2) for name in first]
    return [agreement("mix", mixes, 2), *targets]


def whole_target(
    first: Columns, second: Columns, counts: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Scores for each whole target: directions are linear in the target's mean gradient.

    Args:
        first: Scores of the first halves.
        second: Scores of the second halves.
        counts: Examples in both halves of each target.
    """
    return {
        name: (counts[name][0] * first[name] + counts[name][1] * second[name]) / sum(counts[name])
        for name in first
    }
