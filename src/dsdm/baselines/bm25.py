"""BM25: keep the texts that have rare words in common with the targets.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, with
Lucene's inverse document frequency, log(1 + (N - df + 1/2) / (df + 1/2)), which is never negative,
and without the factor k1 + 1, which changes no order (Kamphuis et al., ECIR 2020).

Each example of a target is a query. A score is linear in the query's counts of words, so all
queries add up to one before any candidate is read, and the pool costs no more than one query.
Libraries of BM25 hold the words of the whole pool to answer further queries; here there are none,
so memory stays at one number a candidate.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from jaxtyping import Int

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.selection import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TEXTS = 1024
_WORD = re.compile(r"\w+")


class Bm25Config(Config):
    """Words in common with the targets (Robertson and Zaragoza, 2009)."""

    k1: Annotated[float, msgspec.Meta(ge=0)] = 1.2
    """How soon more of the same word counts no more."""
    b: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.75
    """How much a long candidate is discounted."""


@baseline(
    "bm25",
    help="Words in common with the targets (Robertson and Zaragoza, 2009).",
    settings=Bm25Config,
)
def bm25(inputs: BaselineInputs, settings: Bm25Config) -> Scores:
    """BM25 of each candidate for the targets: their weighted mean of the mean over examples.

    A query is divided by its number of words, so that every example of a target counts the same.
    Words are runs of letters, digits and underscores, in lower case. Memory is one number a
    candidate and a few a word of the targets. Two passes of `inputs.advance`.
    """
    query = _mean_query(inputs.targets, inputs.weights)
    terms = {term: number for number, term in enumerate(query)}
    frequencies, num_words = np.zeros(len(terms), np.int64), 0
    for lengths, counts in _count(inputs, terms):
        frequencies += np.bincount(counts.indices, minlength=len(terms))
        num_words += int(lengths.sum())
    mean_length = max(num_words, 1) / max(inputs.num_candidates, 1)
    rarity = np.log1p((inputs.num_candidates - frequencies + 0.5) / (frequencies + 0.5))
    weights = rarity * np.fromiter(query.values(), np.float64, len(query))
    values = np.zeros(inputs.num_candidates)
    first = 0
    for lengths, counts in _count(inputs, terms):
        # A count grows ever more slowly, and in a long text less.
        halfway = settings.k1 * (1 - settings.b + settings.b * (lengths / mean_length))
        counts.data /= counts.data + np.repeat(halfway, np.diff(counts.indptr))
        values[first : first + len(lengths)] = counts @ weights
        first += len(lengths)
    return inputs.scores(values, "bm25")


def _mean_query(
    targets: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> dict[str, float]:
    """What each word of the targets counts for in all queries together."""
    query: dict[str, float] = defaultdict(float)
    total = sum(weights[name] for name in targets)
    for name, texts in targets.items():
        for words in map(_words, texts):
            share = weights[name] / total / len(texts) / max(len(words), 1)
            for word in words:
                query[word] += share
    return query


def _count(
    inputs: BaselineInputs, terms: Mapping[str, int]
) -> Iterator[tuple[Int[np.ndarray, " texts"], "csr_array"]]:
    """By blocks of candidates: all words of each, and how often each has each of the terms."""
    from scipy.sparse import csr_array

    texts = inputs.texts()
    while block := list(map(_words, islice(texts, TEXTS))):
        found = [[terms[word] for word in words if word in terms] for words in block]
        ends = np.cumsum([0, *map(len, found)])
        numbers = np.array([number for own in found for number in own], np.int64)
        counts = csr_array((np.ones(len(numbers)), numbers, ends), (len(block), len(terms)))
        counts.sum_duplicates()
        yield np.array(list(map(len, block)), np.int64), counts
        inputs.advance(len(block))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
