"""Directions of two random halves of each target: how much the choice of examples decides."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dsdm.config import Config
from dsdm.data.sequences import Rows, Subset
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import known_estimator
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.errors import DataError


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
