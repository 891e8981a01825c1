"""Correlations, their bootstrap, and the reliability of a mean of measurements."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from dsdm.evaluation.intervals import Interval, bootstrap_interval

RESAMPLES = 2000

Column = Float[np.ndarray, " rows"]


def rank_correlations(
    columns: Sequence[Float[np.ndarray, " candidates"]],
) -> Float[np.ndarray, "columns columns"]:
    """Spearman's correlation of each pair of two or more columns; NaN for a constant column."""
    from scipy.stats import rankdata  # takes seconds to import

    with np.errstate(invalid="ignore"):  # the spread of a constant column is 0
        return np.asarray(np.corrcoef(rankdata(np.stack(columns), axis=1)))


def pearson(first: Column, second: Column) -> float | None:
    """Pearson's correlation of two columns; None where one is constant."""
    if not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def spearman(first: Column, second: Column) -> float | None:
    """Spearman's correlation of two columns; None where one is constant."""
    value = float(rank_correlations([first, second])[0, 1])
    return None if math.isnan(value) else value


def spearman_interval(first: Column, second: Column, seed: int) -> Interval | None:
    """Spearman's correlation and its percentile bootstrap over rows; None for a constant column.

    Resamples in which a column is constant are left out.
    """
    value = spearman(first, second)
    if value is None:
        return None
    counts = resample_counts(len(first), RESAMPLES, seed)[1:]
    found = resampled_rank_correlations(first, second, counts)
    return bootstrap_interval(value, found[~np.isnan(found)])


def resample_counts(num_rows: int, replicates: int, seed: int) -> Int[np.ndarray, "samples rows"]:
    """How often each row is in each sample: once in the first, then as a bootstrap draws it."""
    shares = np.full(num_rows, 1 / num_rows)
    drawn = np.random.default_rng(seed).multinomial(num_rows, shares, size=replicates)
    return np.concatenate([np.ones((1, num_rows), np.int64), drawn])


def resampled_rank_correlations(
    first: Column, second: Column, counts: Int[np.ndarray, "samples rows"]
) -> Float[np.ndarray, " samples"]:
    """Spearman's correlation in each sample; NaN where one of the columns is constant in it.

    Args:
        first: One column.
        second: The other.
        counts: How often each row is in each sample; all samples have as many members.
    """
    middle = (int(counts[0].sum()) + 1) / 2
    x, y = _resampled_ranks(first, counts) - middle, _resampled_ranks(second, counts) - middle
    products = (counts * x * y).sum(axis=1)
    scale = np.sqrt((counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1))
    undefined = np.full(len(counts), math.nan)
    return np.asarray(np.divide(products, scale, out=undefined, where=scale > 0))


def spearman_brown(correlation: float, parts: int) -> float:
    """The reliability of the mean of `parts` measurements that correlate pairwise so.

    Spearman and Brown (1910). A correlation of 0 or less is a reliability of 0: nothing is shared.
    """
    shared = max(correlation, 0.0)
    return parts * shared / (1 + (parts - 1) * shared)


def _resampled_ranks(
    values: Column, counts: Int[np.ndarray, "samples rows"]
) -> Float[np.ndarray, "samples rows"]:
    """The rank of each row in each sample, from 1; equal values share their mean rank."""
    distinct, group = np.unique(values, return_inverse=True)
    members = np.zeros((len(counts), len(distinct)))
    for row, number in enumerate(group):
        members[:, number] += counts[:, row]
    ranks = members.cumsum(axis=1) - (members - 1) / 2
    return np.asarray(ranks[:, group])
