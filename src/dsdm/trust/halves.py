"""Directions of two random halves of each target: how much the choice of examples decides."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, Subset
from dsdm.datamodel.config import METAGRADIENT, DirectionsConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.estimators import ESTIMATORS, Problem, Tensors, metagradient_directions
from dsdm.datamodel.layers import moved_layers
from dsdm.errors import DataError
from dsdm.lm.replay import Replay
from dsdm.trust.measured import Agreement
from dsdm.trust.reliability import agreement, mixed

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
    model: PreTrainedModel,
    method: str,
    config: DirectionsConfig,
    halves: Pairs,
    sample: Rows,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[str, tuple[Direction, Direction]]:
    """Both halves' directions of each target, under one curvature, at the estimator's own scale.

    Args:
        model: The proxy.
        method: The estimator.
        config: As the run's directions.
        halves: The halves of each target.
        sample: Rows of the pool for the curvature.
        advance: Called with the tokens done since the last call.
    """
    layers = moved_layers(model, embeddings=config.embeddings)
    problem = Problem(model, layers, _named(halves), sample, advance)
    return _pairs(ESTIMATORS[method](problem, config), method, halves)


def half_metagradients(
    replay: Replay,
    num_checkpoints: int,
    config: DirectionsConfig,
    halves: Pairs,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[str, tuple[Direction, Direction]]:
    """As `half_directions`, of the metagradient at a proxy's last checkpoint.

    Args:
        replay: The proxy's training, not yet run.
        num_checkpoints: Those of the proxy.
        config: As the run's directions.
        halves: The halves of each target.
        advance: Called with the tokens that were trained on or followed back.
    """
    *_, last = metagradient_directions(replay, _named(halves), num_checkpoints, config, advance)
    return _pairs(last, METAGRADIENT, halves)


def _named(halves: Pairs) -> dict[str, Rows]:
    """Each half as a target of its own."""
    return {f"{name}/{i}": pair[i] for name, pair in halves.items() for i in (0, 1)}


def _pairs(
    found: Mapping[str, Tensors], method: str, halves: Pairs
) -> dict[str, tuple[Direction, Direction]]:
    directions = {name: Direction(tensors, method, name, "") for name, tensors in found.items()}
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
