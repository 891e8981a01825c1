"""DSIR: data selection with importance resampling.

Source: Xie et al., Data Selection for Language Models via Importance Resampling, NeurIPS 2023
(arXiv:2302.03169). Words, hash, smoothing and sum are those of the authors' package
`data-selection` 1.0.3, so that scores without noise are its log importance weights.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice, pairwise
from typing import Annotated

import msgspec
import numpy as np
from jaxtyping import Float, Int

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.errors import DataError
from dsdm.selection import Scores

SMOOTHING = 1e-8
TEXTS = 256
REMEMBERED = 1 << 19
"""N-grams whose bucket is kept, about 100 MB of them."""

_WORD = re.compile(r"\w+|[^\w\s]+")


class DsirConfig(Config):
    """Importance weights of hashed n-grams (Xie et al., NeurIPS 2023)."""

    buckets: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Buckets that words and pairs of words are hashed into."""
    noise: bool = True
    """Add Gumbel noise, which samples by the weights; without it the top is taken."""


@baseline(
    "dsir",
    help="Importance weights of hashed n-grams (Xie et al., NeurIPS 2023).",
    settings=DsirConfig,
)
def dsir(inputs: BaselineInputs, settings: DsirConfig) -> Scores:
    """Log importance weight of each candidate, in nats; the default adds standard Gumbel noise.

    It is the sum over a candidate's words and pairs of words of log(p_target / p_pool), so it grows
    with the text's length. With the noise, the top k are a sample of k without replacement in
    proportion to the weights. Two passes over the pool, the second of which calls
    `inputs.advance`; memory is one number a candidate.

    Differs from the paper: with several targets, p_target is the weighted mean of their own
    distributions, so that a target counts by its weight and not by its length. The package, which
    adds up the counts, drops texts of under 100 words; here every candidate has a score.

    Raises:
        DataError: the pool or a target has no words.
    """
    buckets = _Buckets(settings.buckets)
    log_ratio = np.log(_target_shares(inputs, buckets) + SMOOTHING)
    log_ratio -= np.log(_shares(inputs.texts(), buckets, "The pool") + SMOOTHING)
    values = np.fromiter(_sums(inputs, buckets, log_ratio), np.float64)
    if settings.noise:
        values += np.random.default_rng([inputs.seed, *b"dsir"]).gumbel(size=len(values))
    return inputs.scores(values, "dsir")


class _Buckets(dict[str, int]):
    """The bucket of each n-gram. Common ones are remembered: hashing takes most of the time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, ngram: str) -> int:
        digest = sha256(ngram.encode()).digest()
        bucket = self[ngram] = int.from_bytes(digest, "big") % self.count
        return bucket

    def of_text(self, text: str) -> list[int]:
        """The buckets of all words and of all pairs of neighbouring words."""
        if len(self) > REMEMBERED:
            self.clear()
        words = _WORD.findall(text.lower())
        pairs = map(" ".join, pairwise(words))
        return [*map(self.__getitem__, words), *map(self.__getitem__, pairs)]


def _target_shares(inputs: BaselineInputs, buckets: _Buckets) -> Float[np.ndarray, " buckets"]:
    shares = [_shares(texts, buckets, f"Target {name!r}") for name, texts in inputs.targets.items()]
    weights = [inputs.weights[name] for name in inputs.targets]
    return np.average(shares, axis=0, weights=weights)


def _shares(texts: Iterable[str], buckets: _Buckets, owner: str) -> Float[np.ndarray, " buckets"]:
    """The share of n-grams that falls into each bucket."""
    counts = np.zeros(buckets.count, np.int64)
    for _, ngrams in _read(texts, buckets):
        counts += np.bincount(ngrams, minlength=buckets.count)
    if not counts.any():
        raise DataError(
            f"{owner} has no words, so DSIR cannot compare its words with others. "
            f"Look at its text, or leave `dsir` out."
        )
    return np.asarray(counts / counts.sum())


def _sums(
    inputs: BaselineInputs, buckets: _Buckets, log_ratio: Float[np.ndarray, " buckets"]
) -> Iterator[float]:
    """The sum of each candidate's log ratios."""
    for lengths, ngrams in _read(inputs.texts(), buckets):
        texts = np.repeat(np.arange(len(lengths)), lengths)
        yield from np.bincount(texts, log_ratio[ngrams], len(lengths)).tolist()
        inputs.advance(len(lengths))


def _read(
    texts: Iterable[str], buckets: _Buckets
) -> Iterator[tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " ngrams"]]]:
    """Batches: the number of n-grams of each text, and the buckets of all, text after text."""
    texts = iter(texts)
    while block := [buckets.of_text(text) for text in islice(texts, TEXTS)]:
        lengths = np.array([len(ngrams) for ngrams in block])
        yield lengths, np.array([bucket for ngrams in block for bucket in ngrams], np.int64)
