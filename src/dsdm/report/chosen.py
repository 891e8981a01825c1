"""What each arm of a comparison chose: from which sources, and how much two of them share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

POOL = "pool"
OTHER_SOURCES = "other sources"


@dataclass(frozen=True)
class ChosenSources:
    """Each arm's tokens by source."""

    arms: Sequence[str]
    """The pool first."""
    sources: Sequence[str]
    """The most chosen first; the rest may be summed in the last."""
    num_other: int
    """Sources that are summed in the last of `sources`."""
    shares: Float[np.ndarray, "arms sources"]
    """Of an arm's tokens, each row sums to 1; 0 for an arm without any."""

    def of_source(self, place: int) -> list[float]:
        """The share of one source in each arm's tokens."""
        return [float(share) for share in self.shares[:, place]]


@dataclass(frozen=True)
class ChosenOverlap:
    """How many candidates two arms have in common."""

    arms: Sequence[str]
    num_candidates: Sequence[int]
    shares: Float[np.ndarray, "arms arms"]
    """Of the row's candidates, the share that the column's arm chose too."""
    by_chance: Float[np.ndarray, " arms"]
    """The share that as many candidates drawn at random would have in common with a column."""


def chosen_sources(
    chosen: Mapping[str, np.ndarray],
    num_tokens: Int[np.ndarray, " candidates"],
    sources: Int[np.ndarray, " candidates"],
    source_names: Sequence[str],
    most_sources: int,
) -> ChosenSources:
    """Each arm's share of tokens by source, the sources that some arm favours first.

    Args:
        chosen: Candidates by arm.
        num_tokens: Tokens in each candidate of the pool.
        sources: The source of each candidate, as a place in `source_names`.
        source_names: Their names.
        most_sources: So many are shown apart; the rest is summed.
    """
    everything = {POOL: np.arange(len(num_tokens))} | dict(chosen)
    tokens = np.stack(
        [
            np.bincount(sources[some], num_tokens[some].astype(np.float64), len(source_names))
            for some in everything.values()
        ]
    )
    shares = tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-shares.max(axis=0), kind="stable")
    names, shares = [source_names[i] for i in order], shares[:, order]
    num_other = len(names) - most_sources if len(names) > most_sources + 1 else 0
    if num_other:
        names = [*names[:most_sources], OTHER_SOURCES]
        rest = shares[:, most_sources:].sum(axis=1, keepdims=True)
        shares = np.hstack([shares[:, :most_sources], rest])
    return ChosenSources(list(everything), names, num_other, shares)


def chosen_overlap(chosen: Mapping[str, np.ndarray], num_candidates: int) -> ChosenOverlap:
    """The share of candidates that each arm has in common with each other arm.

    Args:
        chosen: Distinct candidates by arm.
        num_candidates: Candidates in the pool.
    """
    sizes = np.array([len(some) for some in chosen.values()], np.int64)
    common = np.zeros((len(chosen), len(chosen)))
    for i, first in enumerate(chosen.values()):
        is_chosen = np.zeros(num_candidates, bool)
        is_chosen[first] = True
        common[i] = [is_chosen[second].sum() for second in chosen.values()]
    shares = common / np.maximum(sizes, 1)[:, None]
    return ChosenOverlap(list(chosen), sizes.tolist(), shares, sizes / num_candidates)
