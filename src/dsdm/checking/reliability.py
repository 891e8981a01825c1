"""How far columns of scores agree, and what that says of their noise."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from dsdm.checking.measured import Agreement
from dsdm.evaluation.correlations import spearman, spearman_brown

Column = Float[np.ndarray, " rows"]


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
