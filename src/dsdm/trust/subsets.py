"""Random subsets of the pool to retrain models on, and what is in them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.evaluation.arms import cut_to_tokens


def draw_subset(
    sizes: Int[np.ndarray, " candidates"],
    weights: Float[np.ndarray, " candidates"],
    share: float,
    seed: int,
) -> Int[np.ndarray, " chosen"]:
    """Sorted candidates with at most `share` of the whole size, drawn one by one in proportion.

    Each draw takes one of those that are left with a probability proportional to its weight. So
    equal weights give a uniformly random subset, and all subsets are of one size, but for the last
    candidate: training for more steps would lower every loss and say nothing about the data.

    Args:
        sizes: What each candidate adds to a training: its tokens, or its rows where steps are of
            so many rows.
        weights: 0 or more; candidates at 0 are never drawn and do not count in `share`.
        share: Above 0, at most 1.
        seed: Draws the subset.

    Raises:
        ValueError: no candidate has a weight above 0.
    """
    possible = np.flatnonzero(weights > 0)
    if not len(possible):
        raise ValueError("no candidate has a weight above 0.")
    # The order of exponential draws over weights is that of successive draws (Efraimidis and
    # Spirakis, 2006).
    draws = np.random.default_rng(seed).exponential(size=len(weights))
    order = possible[np.argsort(draws[possible] / weights[possible], kind="stable")]
    return np.sort(cut_to_tokens(order, sizes, int(share * int(sizes[possible].sum()))))


def source_weights(
    sources: Int[np.ndarray, " candidates"], skew: float, seed: int
) -> Float[np.ndarray, " candidates"]:
    """The weight of each candidate's source, exp(skew z) with one normal draw z for each source.

    Args:
        sources: Number of each candidate's source, from 0.
        skew: Standard deviation of the logarithm of a weight.
        seed: Draws the weights.
    """
    logarithms = np.random.default_rng(seed).normal(scale=skew, size=int(sources.max()) + 1)
    return np.asarray(np.exp(logarithms)[sources])


def inclusion_matrix(
    subsets: Sequence[Int[np.ndarray, " _"]], num_candidates: int
) -> Bool[np.ndarray, "subsets candidates"]:
    """Whether each candidate is in each subset."""
    inclusion = np.zeros((len(subsets), num_candidates), np.bool_)
    for number, candidates in enumerate(subsets):
        inclusion[number, candidates] = True
    return inclusion


def group_inclusion(
    inclusion: Bool[np.ndarray, "subsets candidates"],
    groups: Int[np.ndarray, " candidates"],
    tokens: Int[np.ndarray, " candidates"],
) -> Float[np.ndarray, "subsets groups"]:
    """The share of each group's tokens that is in each subset; 0 for a group without tokens.

    Args:
        inclusion: Whether each candidate is in each subset.
        groups: Number of each candidate's group, from 0: its source, its cluster.
        tokens: Tokens in each candidate.
    """
    totals = np.bincount(groups, tokens)
    sums = np.stack([np.bincount(groups, tokens * chosen, len(totals)) for chosen in inclusion])
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
