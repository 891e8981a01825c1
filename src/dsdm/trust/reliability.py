"""How far columns of scores agree, and what that says of their noise."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from dsdm.evaluation.agreement import rank_correlations
from dsdm.evaluation.intervals import Interval, bootstrap_interval
from dsdm.trust.measured import Agreement

RESAMPLES = 2000

Column = Float[np.ndarray, " rows"]


def spearman(first: Column, second: Column) -> float | None:
    """Spearman's correlation of two columns; None where one is constant."""
    value = float(rank_correlations([first, second])[0, 1])
    return None if math.isnan(value) else value


def spearman_brown(correlation: float, parts: int) -> float:
    """The reliability of the mean of `parts` equal measurements that correlate pairwise so.

    Spearman and Brown (1910). A correlation of 0 or less is a reliability of 0: nothing is shared.
    """
    shared = max(correlation, 0.0)
    return parts * shared / (1 + (parts - 1) * shared)


def agreement(name: str, columns: Sequence[Column], parts: int) -> Agreement:
    """How far measurements of one thing agree, and how reliable the mean of `parts` of them is.

    Fewer than two columns, or constant ones, give no figure.
    """
    pairs = [spearman(first, second) for first, second in combinations(columns, 2)]
    known = [value for value in pairs if value is not None]
    if not known:
        return Agreement(name, 0, None, None)
    mean = float(np.mean(known))
    return Agreement(name, len(known), mean, spearman_brown(mean, parts))


def mixed(columns: Mapping[str, Column], weights: Mapping[str, float]) -> Column:
    """The weighted sum of columns, each brought to unit spread first; constant ones are left out.

    As the mix of directions is made: see `datamodel.estimate`.
    """
    first = next(iter(columns.values()))
    total = np.zeros(len(first))
    for name, values in columns.items():
        spread = float(np.std(values))
        total += weights[name] * values / spread if spread > 0 else 0.0
    return total


def share_between(values: Column, groups: Int[np.ndarray, " rows"]) -> float | None:
    """The share of the variance that lies between groups (eta squared); None without variance."""
    deviations = values - values.mean()
    total = float((deviations**2).sum())
    if not total > 0:
        return None
    _, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.bincount(of_row, deviations)
    return float((sums**2 / sizes).sum()) / total


def standardized_difference(values: Column, chosen: np.ndarray) -> float | None:
    """The mean of the chosen rows less that of the others, in standard deviations of all rows.

    None where all or none are chosen, or all values are equal.
    """
    spread = float(values.std())
    if chosen.all() or not chosen.any() or not spread > 0:
        return None
    return float(values[chosen].mean() - values[~chosen].mean()) / spread


def spearman_interval(first: Column, second: Column, seed: int) -> Interval | None:
    """Spearman's correlation with its percentile bootstrap over pairs; None for a constant."""
    value = spearman(first, second)
    if value is None:
        return None

    count = len(first)
    rng, even = np.random.default_rng(seed), np.full(count, 1 / count)
    drawn = rng.multinomial(count, even, size=RESAMPLES).astype(np.float64)
    return bootstrap_interval(value, _resampled_spearman(first, second, drawn))


def _resampled_spearman(
    first: Column, second: Column, drawn: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, " known"]:
    """Spearman's correlation of each resample, in which row i is drawn[:, i] times.

    Without resamples that are constant.
    """
    ranked = []
    for column in (first, second):
        below, equal = column < column[:, None], column == column[:, None]
        ranks = drawn @ below.T + (drawn @ equal.T + 1) / 2
        ranked.append(ranks - (drawn * ranks).sum(1, keepdims=True) / len(column))
    products = (drawn * ranked[0] * ranked[1]).sum(1)
    scale = np.sqrt((drawn * ranked[0] ** 2).sum(1) * (drawn * ranked[1] ** 2).sum(1))
    return np.asarray(products[scale > 0] / scale[scale > 0])
