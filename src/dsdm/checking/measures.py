"""From the proxies' samples to the figures that the verdict judges; no model is read here."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.checking.measured import Agreement, Confounds
from dsdm.checking.sample import ProxySample
from dsdm.datamodel.config import MIX
from dsdm.evaluation.correlations import spearman, spearman_brown
from dsdm.evaluation.intervals import Interval, bootstrap_interval, bootstrap_means

Column = Float[np.ndarray, " rows"]
Columns = Mapping[str, np.ndarray]


def combined_scores(samples: Sequence[ProxySample]) -> dict[str, Column]:
    """The scores that select, for the mix and each target: their means over proxies."""
    return {
        name: np.mean([sample.scores[name] for sample in samples], axis=0)
        for name in samples[0].scores
    }


def mixed(columns: Columns, weights: Mapping[str, float]) -> Column:
    """The weighted sum of columns, each divided by its spread; constant ones are left out.

    As the mix of directions is made: see `datamodel.estimate`.
    """
    first = next(iter(columns.values()))
    total = np.zeros(len(first))
    for name, values in columns.items():
        spread = float(np.std(values))
        total += weights[name] * values / spread if spread > 0 else 0.0
    return total


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


def agreement_of_proxies(samples: Sequence[ProxySample]) -> list[Agreement]:
    """The agreement of the proxies' scores for the mix and for each target."""
    names = [MIX, *(name for name in samples[0].scores if name != MIX)]
    return [
        agreement(name, [sample.scores[name] for sample in samples], len(samples)) for name in names
    ]


def agreement_of_halves(
    first: Columns, second: Columns, weights: Mapping[str, float]
) -> list[Agreement]:
    """The agreement of scores for two halves of the targets' examples: the mix, then each target.

    Args:
        first: By target, the rows' scores for its first half.
        second: As `first`, for its second half.
        weights: Each target's in the mix.
    """
    mixes = [mixed(first, weights), mixed(second, weights)]
    return [
        agreement(MIX, mixes, 2),
        *(agreement(name, [first[name], second[name]], 2) for name in first),
    ]


def agreement_of_curvatures(
    own: Column,
    first: Columns,
    second: Columns,
    counts: Mapping[str, Sequence[int]],
    weights: Mapping[str, float],
) -> Agreement:
    """The agreement of a proxy's scores for the mix with those by a curvature of other rows.

    Args:
        own: The proxy's scores of the sample for the mix.
        first: As in `agreement_of_halves`, by the other curvature.
        second: As in `agreement_of_halves`, by the other curvature.
        counts: Examples in both halves of each target.
        weights: Each target's in the mix.
    """
    whole = whole_target(first, second, counts)
    return agreement(MIX, [own, mixed(whole, weights)], 1)


def whole_target(
    first: Columns, second: Columns, counts: Mapping[str, Sequence[int]]
) -> dict[str, Column]:
    """Scores for each whole target from those for its halves.

    A direction is linear in the target's mean gradient, so the halves add up to it.
    """
    return {
        name: (counts[name][0] * first[name] + counts[name][1] * second[name]) / sum(counts[name])
        for name in first
    }


def mean_target_slopes(samples: Sequence[ProxySample], seed: int) -> dict[str, Interval]:
    """The mean score of each target's tune examples, with its bootstrap over examples."""
    slopes = {}
    for name in samples[0].tune:
        values = np.mean([sample.tune[name] for sample in samples], axis=0)
        means = bootstrap_means(values, seed=seed)
        slopes[name] = bootstrap_interval(float(values.mean()), means)
    return slopes


def confounds_of(
    samples: Sequence[ProxySample],
    seen: Sequence[Bool[np.ndarray, " rows"]],
    lengths: Int[np.ndarray, " rows"],
    sources: Int[np.ndarray, " rows"],
) -> Confounds:
    """How the scores for the mix go with length, gradient norm, source and being trained on.

    Args:
        samples: Each proxy's.
        seen: Which rows each proxy was trained on.
        lengths: Tokens in each row.
        sources: A number for each row's source.
    """
    scores = combined_scores(samples)[MIX]
    norms = np.mean([sample.norms for sample in samples], axis=0)
    pairs = zip(samples, seen, strict=True)
    found = [standardized_difference(sample.scores[MIX], rows) for sample, rows in pairs]
    known = [value for value in found if value is not None]
    return Confounds(
        length=spearman(scores, lengths.astype(np.float64)),
        gradient_norm=spearman(scores, norms),
        between_sources=share_between(scores, sources),
        num_sources=len(np.unique(sources)),
        seen=float(np.mean(known)) if known else None,
    )


def share_between(values: Column, groups: Int[np.ndarray, " rows"]) -> float | None:
    """The share of the variance that lies between groups (eta squared); None without variance."""
    deviations = values - values.mean()
    total = float((deviations**2).sum())
    if not total > 0:
        return None
    _, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.bincount(of_row, deviations)
    return float((sums**2 / sizes).sum()) / total


def standardized_difference(values: Column, chosen: Bool[np.ndarray, " rows"]) -> float | None:
    """The mean of the chosen rows less that of the others, in standard deviations of all rows.

    None where all or none are chosen, or all values are equal.
    """
    spread = float(values.std())
    if chosen.all() or not chosen.any() or not spread > 0:
        return None
    return float(values[chosen].mean() - values[~chosen].mean()) / spread
