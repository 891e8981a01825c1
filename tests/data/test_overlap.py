from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from dsdm.data import overlap
from dsdm.data.overlap import (
    DEFAULT_WORDS,
    PieceOverlap,
    TargetGrams,
    TargetOverlap,
    merge_overlaps,
    overlap_of,
)

RNG = np.random.default_rng(0)


def count_overlap(
    targets: Mapping[str, Iterable[str]],
    pool: Iterable[tuple[int, str]],
    num_words: int = DEFAULT_WORDS,
) -> dict[str, TargetOverlap]:
    """What targets share with a pool that is one piece."""
    grams = TargetGrams.of_texts(targets, num_words)
    return merge_overlaps([(0, overlap_of(pool, grams))], grams)


def make_text(num_words: int, vocabulary: int = 1_000_000) -> str:
    return " ".join(f"w{i}" for i in RNG.integers(vocabulary, size=num_words))


def test_a_planted_13_gram_is_found_and_no_other() -> None:
    targets = [make_text(30) for _ in range(20)]
    pool = [make_text(200) for _ in range(50)]
    words = targets[7].split()
    pool[31] = " ".join(["start", *words[5:18], "end"])
    pool[32] = " ".join(["start", *words[5:17], "end"])
    found = count_overlap({"squad": targets}, enumerate(pool))["squad"]
    assert found.candidates.tolist() == [31]
    assert (found.num_overlapping, found.num_examples, found.share) == (1, 20, 0.05)


def test_counts_equal_those_of_sets_of_tuples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_WORDS_AT_ONCE", 50)
    targets = {name: [make_text(n, 4) for n in (2, 3, 8, 12)] for name in "ab"}
    pool = {3 * i: make_text(int(n), 5) for i, n in enumerate(RNG.integers(1, 40, size=40))}

    def grams(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    in_pool = set().union(*map(grams, pool.values()))
    found = count_overlap(targets, pool.items(), num_words=4)
    for name, texts in targets.items():
        own = set().union(*map(grams, texts))
        assert found[name].num_short == 2
        assert found[name].num_overlapping == sum(bool(grams(t) & in_pool) for t in texts)
        assert found[name].candidates.tolist() == [i for i, t in pool.items() if grams(t) & own]


def test_case_and_punctuation_do_not_hide_an_overlap() -> None:
    found = count_overlap({"t": ["One, two (three) FOUR"]}, [(5, "one two\nthree -- four!")], 4)
    assert found["t"].candidates.tolist() == [5]


def test_an_n_gram_never_crosses_two_documents() -> None:
    found = count_overlap({"t": ["one two three four"]}, [(0, "one two"), (1, "three four")], 4)
    assert found["t"].num_overlapping == 0


def test_text_without_spaces_is_compared_by_character() -> None:
    found = count_overlap({"t": ["北京是中国的首都"]}, [(0, "我住在中国的首都北京")], 5)
    assert found["t"].candidates.tolist() == [0]


def test_each_target_has_its_own_counts() -> None:
    targets = {"a": ["one two three"], "b": ["four five six"], "c": []}
    found = count_overlap(targets, [(0, "one two three"), (1, "four five six")], 3)
    assert [found[name].candidates.tolist() for name in "abc"] == [[0], [1], []]
    assert found["c"].share == 0.0


def test_short_examples_and_empty_pools_overlap_nothing() -> None:
    found = count_overlap({"t": ["too short", ""]}, [(0, "too short"), (1, "")])["t"]
    assert (found.num_short, found.num_overlapping, len(found.candidates)) == (2, 0, 0)
    assert count_overlap({"t": [make_text(20)]}, [])["t"].num_overlapping == 0


def test_no_candidate_over_pieces_is_lost(tmp_path: Path) -> None:
    targets = {name: [make_text(n, 4) for n in (3, 8, 12)] for name in ("a", "b.mix")}
    pool = [make_text(int(n), 5) for n in RNG.integers(1, 40, size=60)]
    whole = count_overlap(targets, enumerate(pool), 4)
    grams = TargetGrams.of_texts(targets, 4)
    parts = []
    for first, end in ((0, 7), (7, 7), (7, 40), (40, 60)):
        path = tmp_path / f"{len(parts)}.npz"
        overlap_of(enumerate(pool[first:end]), grams).save(path)
        parts.append((first, PieceOverlap.load(path)))
    merged = merge_overlaps(parts, grams)
    for name in targets:
        assert merged[name].candidates.tolist() == whole[name].candidates.tolist()
        assert merged[name].num_overlapping == whole[name].num_overlapping
