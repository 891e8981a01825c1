"""Controls of a method: could its choice of sources alone have done as well?"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from dsdm.selection import Scores, SelectionConfig, select


def source_matched(
    scores: Scores,
    chosen: Int[np.ndarray, " chosen"],
    seed: int,
    allowed: Bool[np.ndarray, " candidates"] | None = None,
) -> Scores:
    """A ranking whose top holds of each source what `chosen` does, drawn at random within it.

    From each source, candidates are drawn that fit into the tokens that `chosen` has of it, until
    none fits any more. They come first, from 1 up, and all others follow below 1. So a selection of
    as many tokens takes all that were drawn, and then at random what the rest has room for: less,
    for each source, than its smallest candidate left. Where the budget is in candidates, the shares
    are still those of tokens.

    Args:
        scores: of the method that chose.
        chosen: candidates that it chose, unique.
        seed: of the draw.
        allowed: candidates that may be drawn; None: all.
    """
    draw = replace(scores, values=np.random.default_rng(seed).random(len(scores.values)))
    num_sources = len(scores.source_names)
    tokens = np.bincount(scores.sources[chosen], scores.num_tokens[chosen], num_sources)
    is_drawn = np.zeros(len(scores.values), bool)
    for members, budget in zip(_by_source(scores, allowed), tokens.astype(np.int64), strict=True):
        if budget > 0:
            fitting = select(_of_candidates(draw, members), SelectionConfig(tokens=int(budget)))
            is_drawn[members[fitting]] = True
    return replace(scores, values=draw.values + is_drawn, method="source-matched")


def best_source(
    scores: Scores,
    chosen_tokens: int,
    seed: int,
    allowed: Bool[np.ndarray, " candidates"] | None = None,
) -> Scores:
    """A ranking that puts the source with the best mean score first, at random within it.

    The mean is weighted by tokens, over the `allowed` candidates (None: all). Only sources of at
    least `chosen_tokens` tokens compete, unless none is that large: then all do, and a selection
    goes on at random where the best one ends.

    Raises:
        NumericalError: a score is NaN or infinite.
    """
    scores.require_finite()
    count = len(scores.source_names)
    weights = scores.num_tokens if allowed is None else scores.num_tokens * allowed
    tokens = np.bincount(scores.sources, weights, count)
    sums = np.bincount(scores.sources, scores.values * weights, count)
    means = np.where(tokens > 0, sums / np.maximum(tokens, 1), -np.inf)
    is_large = tokens >= chosen_tokens
    best = int(np.argmax(np.where(is_large, means, -np.inf) if is_large.any() else means))
    values = np.random.default_rng(seed).random(len(scores.values))
    values[scores.sources == best] += 1
    return replace(scores, values=values, method="best-source")


def _by_source(scores: Scores, allowed: Bool[np.ndarray, " candidates"] | None) -> list[np.ndarray]:
    """The allowed candidates of each source."""
    order = np.argsort(scores.sources, kind="stable")
    if allowed is not None:
        order = order[allowed[order]]
    counts = np.bincount(scores.sources[order], minlength=len(scores.source_names))
    return np.split(order, np.cumsum(counts)[:-1])


def _of_candidates(scores: Scores, members: Int[np.ndarray, " members"]) -> Scores:
    return replace(
        scores,
        values=scores.values[members],
        num_tokens=scores.num_tokens[members],
        sources=scores.sources[members],
    )
