"""Candidates to look at: grouped, each once, their texts within what a page can hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float

from dsdm.report.parts import PAGE_ONLY
from dsdm.report.text import cut_to_bytes, page_bytes

EXCERPT_CHARACTERS = 300
LONGEST_TEXT_BYTES = 20_000
ALL_TEXT_BYTES = 1_500_000
"""Of all texts in a page together, so that it opens at once."""

GroupKind = Literal["rank", "target", "source"]


@dataclass(frozen=True)
class ExampleGroup:
    """Candidates that are shown together, in this order."""

    title: str
    kind: GroupKind
    candidates: Sequence[int]


@dataclass(frozen=True)
class ShownExample:
    """A candidate with all its scores, NaN where one was not computed."""

    candidate: int
    id: str
    source: str
    num_tokens: int
    score: float
    selected: bool
    proxy_scores: Float[np.ndarray, "proxies targets"]
    other_scores: Sequence[float]
    """Of the methods that did not select."""
    excerpt: str
    text: str = field(metadata=PAGE_ONLY)
    """As much of it as the page holds."""
    is_cut: bool
    """Whether `text` ends before the candidate does."""

    @property
    def target_scores(self) -> list[float]:
        """Means over the proxies."""
        known = ~np.isnan(self.proxy_scores)
        counts = known.sum(axis=0)
        sums = np.where(known, self.proxy_scores, 0).sum(axis=0)
        return [s / n if n else math.nan for s, n in zip(sums.tolist(), counts, strict=True)]


@dataclass(frozen=True)
class ExamplesBrowser:
    """Examples that can be searched, sorted and filtered."""

    proxies: Sequence[str]
    targets: Sequence[str]
    """Columns of `ShownExample.proxy_scores`, the mix among them."""
    other_methods: Sequence[str]
    groups: Sequence[ExampleGroup]
    examples: Sequence[ShownExample]

    def first_in(self, group: int) -> list[ShownExample]:
        """The examples of a group that no earlier group has."""
        return [
            self._by_candidate[candidate]
            for candidate in self.groups[group].candidates
            if self.places(candidate)[0][0] == group
        ]

    def places(self, candidate: int) -> list[tuple[int, int]]:
        """Every group that has this candidate, by number, and its rank there."""
        return self._places[candidate]

    @cached_property
    def _by_candidate(self) -> dict[int, ShownExample]:
        return {example.candidate: example for example in self.examples}

    @cached_property
    def _places(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        for number, group in enumerate(self.groups):
            for rank, candidate in enumerate(group.candidates):
                found.setdefault(candidate, []).append((number, rank))
        return found


def fit_texts(
    texts: Sequence[str], longest: int = LONGEST_TEXT_BYTES, total: int = ALL_TEXT_BYTES
) -> list[str]:
    """The texts, each cut to `longest` bytes of the page and further if all exceed `total`."""
    texts = [cut_to_bytes(text[:longest], longest) for text in texts]
    limit = fair_limit([page_bytes(text) for text in texts], total)
    return [cut_to_bytes(text, limit) for text in texts]


def fair_limit(sizes: Sequence[int], total: int) -> int:
    """The largest limit with which all sizes, each cut to it, sum to `total` at most."""
    left = total
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)
