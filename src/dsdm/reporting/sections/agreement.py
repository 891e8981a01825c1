"""How far checkpoints and targets agree in the order of candidates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dsdm.datamodel.calibration import load_exact
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.config import MIX, shrinkage_of
from dsdm.evaluation.correlations import rank_correlations
from dsdm.reporting.section import section
from dsdm.reporting.sections.calibration import direction_folders
from dsdm.reporting.view import RunView

MOST_COLUMNS = 24
SAMPLE = 200_000
"""Candidates that correlations are taken over; of a larger pool, so many are drawn."""


@dataclass(frozen=True)
class Matrix:
    """Rank correlations of some columns with each other."""

    title: str
    over: str
    """What the correlations are over, such as `5,000 candidates`."""
    note: str
    columns: list[ScoreColumn]
    correlations: Float[np.ndarray, "columns columns"]


@dataclass(frozen=True)
class MeanCorrelation:
    """The mean correlation of pairs of columns that differ in one thing."""

    estimator: str
    between: Literal["proxies", "targets"]
    over: str
    num_pairs: int
    mean: float


@section("agreement", order=90, title="Agreement")
def agreement(run: RunView) -> dict[str, Any] | None:
    """Correlations of the scores of candidates, and of the exact scores of calibration rows."""
    matrices = [*_of_candidates(run), *_of_calibration_rows(run)]
    if not matrices:
        return None
    return {"means": [one for m in matrices for one in mean_correlations(m)], "matrices": matrices}


def mean_correlations(matrix: Matrix) -> list[MeanCorrelation]:
    """Each estimator's mean correlation between proxies (of the mix, if any) and between targets.

    Columns of combined scores are left out.
    """
    pairs: dict[tuple[str, Literal["proxies", "targets"]], list[float]] = {}
    numbered = [(i, one) for i, one in enumerate(matrix.columns) if one.checkpoint is not None]
    has_mix = any(one.target == MIX for _, one in numbered)
    for (i, one), (j, other) in combinations(numbered, 2):
        is_same_target = one.target == other.target
        is_same_checkpoint = one.checkpoint == other.checkpoint
        # Only pairs that differ in one thing alone.
        if one.estimator != other.estimator or is_same_target == is_same_checkpoint:
            continue
        value = float(matrix.correlations[i, j])
        # The mix is what selects: where there is one, single targets do not count.
        if is_same_target and (one.target == MIX or not has_mix):
            pairs.setdefault((one.estimator, "proxies"), []).append(value)
        elif not is_same_target and MIX not in (one.target, other.target):
            pairs.setdefault((one.estimator, "targets"), []).append(value)
    return [
        MeanCorrelation(estimator, between, matrix.over, len(values), float(np.mean(values)))
        for (estimator, between), values in sorted(pairs.items())
    ]


def sampled_candidates(run: RunView) -> np.ndarray:
    """Candidates that correlations are taken over: all, or as many drawn as are enough."""
    assert run.scores is not None
    count = len(run.scores.values)
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))


def _of_candidates(run: RunView) -> Iterator[Matrix]:
    columns = run.score_columns[:MOST_COLUMNS] if run.scores else []
    if len(columns) < 2:
        return
    sample = sampled_candidates(run)
    over, note = f"{len(sample):,} candidates", ""
    if any(shrinkage_of(run.experiment.scores, one) for one in run.experiment.estimators):
        note = " Shrinkage makes proxies agree more here than on calibration rows."
    correlations = rank_correlations([run.column(str(one))[sample] for one in columns])
    yield Matrix("Scores", over, f"Over {over}.{note}", columns, correlations)


def _of_calibration_rows(run: RunView) -> Iterator[Matrix]:
    targets = [target.name for target in run.experiment.targets]
    exact: dict[str, dict[ScoreColumn, np.ndarray]] = {}
    for estimator, checkpoint, folder in direction_folders(run):
        _, of_target = load_exact(folder)
        for target in targets:
            column = ScoreColumn(estimator, checkpoint, target)
            exact.setdefault(estimator, {})[column] = of_target[target]
    for estimator, found in exact.items():
        columns = list(found)[:MOST_COLUMNS]
        if len(columns) > 1:
            num_rows = len(found[columns[0]])
            over = f"{num_rows:,} calibration rows"
            note = f"Over {over}; chance alone gives ±{1 / math.sqrt(num_rows):.2f}."
            correlations = rank_correlations([found[one] for one in columns])
            yield Matrix(f"Exact scores, {estimator}", over, note, columns, correlations)
