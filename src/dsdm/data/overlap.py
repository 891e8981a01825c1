"""Overlap of targets with the pool: runs of words that occur in both.

A pool document that holds a target example scores high because it leaks the answer.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64

from dsdm.errors import ArtifactError

DEFAULT_WORDS = 13
"""As in GPT-3 (Brown et al. 2020, appendix C)."""

# Letters and digits in a row; Chinese and Japanese, written without spaces, count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_UNKNOWN = 0
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_WORDS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TargetOverlap:
    """What one target shares with the pool."""

    num_examples: int
    num_overlapping: int
    """Examples of which some n-gram occurs in the pool."""
    num_short: int
    """Examples with fewer words than an n-gram, about which nothing can be said."""
    candidates: Int[np.ndarray, " found"]
    """Pool candidates that hold an n-gram of the target, sorted."""

    @property
    def share(self) -> float:
        """Overlapping examples as a share of all."""
        return self.num_overlapping / self.num_examples if self.num_examples else 0.0


@dataclass(frozen=True)
class PieceOverlap:
    """What a part of the pool shares with the targets."""

    grams: Int[np.ndarray, " seen"]
    """Those of the targets' n-grams that occur in it, as positions in `TargetGrams.hashes`."""
    candidates: dict[str, Int[np.ndarray, " found"]]
    """Candidates that hold an n-gram of each target, sorted."""

    def save(self, path: Path) -> None:
        """Writes a .npz file."""
        # np.savez stamps its entries 1980-01-01, so the same overlap is the same bytes.
        arrays: dict[str, Any] = {f"of {name}": of for name, of in self.candidates.items()}
        np.savez(path, grams=self.grams, **arrays)

    @classmethod
    def load(cls, path: Path) -> "PieceOverlap":
        """What `save` wrote.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                candidates = {
                    n.removeprefix("of "): arrays[n] for n in arrays.files if n != "grams"
                }
                return cls(arrays["grams"], candidates)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: can't be read ({error}). Delete its folder.") from error


@dataclass(frozen=True)
class TargetGrams:
    """The n-grams of all targets. Pool words that no target has can't be part of one."""

    num_words: int
    vocabulary: dict[str, int]
    word_values: UInt64[np.ndarray, " words"]
    hashes: UInt64[np.ndarray, " grams"]
    """Of each different n-gram, sorted."""
    examples: dict[str, list[np.ndarray]]
    """The n-grams of each target's examples, as positions in `hashes`."""

    @classmethod
    def of_texts(
        cls, targets: Mapping[str, Iterable[str]], num_words: int = DEFAULT_WORDS
    ) -> "TargetGrams":
        """The n-grams of the texts of each target's examples (see `tasks.read_target_texts`).

        The same texts give the same n-grams in any process.
        """
        if num_words < 1:
            raise ValueError(f"num_words must be at least 1, got {num_words}.")
        vocabulary: dict[str, int] = {}
        words = {
            name: [_number_words(text, vocabulary) for text in texts]
            for name, texts in targets.items()
        }
        values = np.random.default_rng(0).integers(2**64, size=len(vocabulary) + 1, dtype=np.uint64)
        by_example = {
            name: [_hash_windows(each, values, num_words)[1] for each in of_target]
            for name, of_target in words.items()
        }
        hashes = np.unique(
            np.concatenate([np.zeros(0, np.uint64), *chain.from_iterable(by_example.values())])
        )
        examples = {
            name: [np.searchsorted(hashes, each) for each in of_target]
            for name, of_target in by_example.items()
        }
        return cls(num_words, vocabulary, values, hashes, examples)


def overlap_of(texts: Iterable[tuple[int, str]], grams: TargetGrams) -> PieceOverlap:
    """What some candidates of the pool share with the targets.

    Words are compared without case and punctuation. The texts are streamed; memory holds the
    targets' n-grams.

    Args:
        texts: Candidates and their texts.
        grams: Of the targets.
    """
    members = {name: _mark(of, len(grams.hashes)) for name, of in grams.examples.items()}
    seen = np.zeros(len(grams.hashes), bool)
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in members}
    for candidates, words in _read_blocks(texts, grams.vocabulary):
        positions, hashes = _hash_windows(words, grams.word_values, grams.num_words)
        index, is_known = _look_up(hashes, grams.hashes)
        seen[index[is_known]] = True
        for name, is_member in members.items():
            hits = positions[is_known][is_member[index[is_known]]]
            found[name].append(np.unique(candidates[hits]))
    of_target = {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}
    return PieceOverlap(np.flatnonzero(seen), of_target)


def merge_overlaps(
    parts: Iterable[tuple[int, PieceOverlap]], grams: TargetGrams
) -> dict[str, TargetOverlap]:
    """What each target shares with the whole pool, by target.

    Args:
        parts: Overlaps of all parts of the pool, each with what is added to its candidates' numbers
            to number them over the pool.
        grams: Of the targets.
    """
    seen = np.zeros(len(grams.hashes), bool)
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in grams.examples}
    for first, part in parts:
        seen[part.grams] = True
        for name, candidates in part.candidates.items():
            found[name].append(candidates + first)
    return {
        name: TargetOverlap(
            num_examples=len(examples),
            num_overlapping=sum(bool(seen[each].any()) for each in examples),
            num_short=sum(len(each) == 0 for each in examples),
            candidates=np.unique(np.concatenate(found[name])),
        )
        for name, examples in grams.examples.items()
    }


def _number_words(text: str, vocabulary: dict[str, int]) -> Int[np.ndarray, " words"]:
    """The number of each word, from 1; words not seen before enter the vocabulary."""
    words = _WORD.findall(text.casefold())
    return np.array([vocabulary.setdefault(word, len(vocabulary) + 1) for word in words], np.int64)


def _hash_windows(
    words: Int[np.ndarray, " words"], values: UInt64[np.ndarray, " vocabulary"], num_words: int
) -> tuple[Int[np.ndarray, " windows"], UInt64[np.ndarray, " windows"]]:
    """Position and hash of each run of `num_words` words that are all in the vocabulary."""
    unknown_before = np.concatenate([[0], np.cumsum(words == _UNKNOWN)])
    num_windows = max(len(words) - num_words + 1, 0)
    ends = unknown_before[num_words : num_words + num_windows]
    positions = np.flatnonzero(ends == unknown_before[:num_windows])
    hashes = np.zeros(len(positions), np.uint64)
    for offset in range(num_words):
        hashes = hashes * _MULTIPLIER + values[words[positions + offset]]
    return positions, hashes


def _read_blocks(
    pool: Iterable[tuple[int, str]], vocabulary: Mapping[str, int]
) -> Iterator[tuple[Int[np.ndarray, " words"], Int[np.ndarray, " words"]]]:
    """Candidate and number of each word; an unknown word after each text keeps texts apart."""
    candidates: list[int] = []
    lengths: list[int] = []
    words: list[int] = []
    for candidate, text in pool:
        before = len(words)
        words += [vocabulary.get(word, _UNKNOWN) for word in _WORD.findall(text.casefold())]
        words.append(_UNKNOWN)
        candidates.append(candidate)
        lengths.append(len(words) - before)
        if len(words) >= _WORDS_AT_ONCE:
            yield np.repeat(candidates, lengths), np.array(words)
            candidates, lengths, words = [], [], []
    yield np.repeat(np.array(candidates, np.int64), lengths), np.array(words, np.int64)


def _look_up(
    hashes: UInt64[np.ndarray, " windows"], known: UInt64[np.ndarray, " grams"]
) -> tuple[Int[np.ndarray, " windows"], Bool[np.ndarray, " windows"]]:
    """Where each hash would stand in `known`, and whether it does."""
    index = np.minimum(np.searchsorted(known, hashes), max(len(known) - 1, 0))
    return index, known[index] == hashes if len(known) else np.zeros(len(hashes), bool)


def _mark(indices: Sequence[np.ndarray], size: int) -> Bool[np.ndarray, " size"]:
    marks = np.zeros(size, bool)
    for each in indices:
        marks[each] = True
    return marks
