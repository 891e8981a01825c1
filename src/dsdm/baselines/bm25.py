"""BM25: keep the texts that have rare words in common with the targets.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, with
Lucene's inverse document frequency, log(1 + (N - df + 1/2) / (df + 1/2)), which is never negative,
and without the factor k1 + 1, which changes no order (Kamphuis et al., ECIR 2020).

Each example of a target is a query. A score is linear in the query's counts of words, so all
queries add up to one before any candidate is read, and the pool costs no more than one query.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from dsdm.baselines.config import Bm25Config
from dsdm.baselines.inputs import BaselineInputs
from dsdm.selection import Scores

_WORD = re.compile(r"\w+")
TEXTS = 1024


@dataclass(frozen=True)
class _Counts:
    """Words of some texts."""

    lengths: Int[np.ndarray, " texts"]
    """All words of each text."""
    terms: csr_array
    """How often each text has each term of the query, shape (texts, terms)."""


def bm25(inputs: BaselineInputs, config: Bm25Config) -> Scores:
    """BM25 of each candidate for the targets: their weighted mean of the mean over examples.

    A query is divided by its number of words, so that every example of a target counts the same.
    Words are runs of letters, digits and underscores, in lower case. Memory is one number a
    candidate and a few a word of the targets. Two passes of `inputs.advance`.
    """
    query = _mean_query(inputs.targets, inputs.weights)
    terms = {term: number for number, term in enumerate(query)}
    frequencies, mean_length = _statistics(inputs, terms)
    rarity = np.log1p((inputs.num_candidates - frequencies + 0.5) / (frequencies + 0.5))
    weights = rarity * np.fromiter(query.values(), np.float64, len(query))
    values = np.zeros(inputs.num_candidates)
    first = 0
    for counts in _count(inputs, terms):
        last = first + len(counts.lengths)
        values[first:last] = _saturate(counts, mean_length, config) @ weights
        first = last
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


def _statistics(
    inputs: BaselineInputs, terms: Mapping[str, int]
) -> tuple[Int[np.ndarray, " terms"], float]:
    """The number of candidates that have each term, and the mean words of a candidate."""
    frequencies = np.zeros(len(terms), np.int64)
    num_words = 0
    for counts in _count(inputs, terms):
        frequencies += np.bincount(counts.terms.indices, minlength=len(terms))
        num_words += int(counts.lengths.sum())
    return frequencies, max(num_words, 1) / max(inputs.num_candidates, 1)


def _count(inputs: BaselineInputs, terms: Mapping[str, int]) -> Iterator[_Counts]:
    texts = inputs.texts()
    while block := list(islice(texts, TEXTS)):
        yield _count_block(block, terms)
        inputs.advance(len(block))


def _count_block(texts: Iterable[str], terms: Mapping[str, int]) -> _Counts:
    lengths, ends, found = [], [0], []
    for text in texts:
        words = _words(text)
        lengths.append(len(words))
        found += [number for number in map(terms.get, words) if number is not None]
        ends.append(len(found))
    shape = (len(lengths), len(terms))
    counts = csr_array((np.ones(len(found)), np.array(found, np.int64), ends), shape)
    counts.sum_duplicates()
    return _Counts(np.array(lengths, np.int64), counts)


def _saturate(counts: _Counts, mean_length: float, config: Bm25Config) -> csr_array:
    """The counts as BM25 weighs them: they grow ever more slowly, and in long texts less."""
    relative = counts.lengths / mean_length
    halfway = config.k1 * (1 - config.b + config.b * relative)
    times = counts.terms.data
    weighed = times / (times + np.repeat(halfway, np.diff(counts.terms.indptr)))
    return csr_array((weighed, counts.terms.indices, counts.terms.indptr), counts.terms.shape)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
