import random

import numpy as np
import pytest

from dsdm.data.near_duplicates import NearDuplicates, _shingles
from dsdm.selection import Scores, SelectionConfig, select


def words(n, seed):
    rng = random.Random(seed)
    return [f"w{rng.randrange(10_000)}" for _ in range(n)]


def jaccard(a, b):
    a, b = _shingles(a), _shingles(b)
    return len(a & b) / len(a | b)


def with_words_replaced(text, count, seed):
    rng = random.Random(seed)
    changed = text.split()
    for place in rng.sample(range(len(changed)), count):
        changed[place] = f"x{rng.randrange(10_000)}"
    return " ".join(changed)


def guard(texts, threshold=0.8):
    return NearDuplicates(texts.__getitem__, threshold)


def test_an_equal_text_is_a_duplicate_of_the_first_only():
    texts = [" ".join(words(100, 0)), " ".join(words(100, 1)), " ".join(words(100, 0))]
    duplicates = guard(texts)
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, False, True]


def test_case_space_and_punctuation_do_not_hide_a_duplicate():
    texts = [
        "The quick brown fox jumps over the lazy dog.",
        "the QUICK brown\nfox jumps -- over the lazy dog",
    ]
    duplicates = guard(texts)
    assert not duplicates.is_duplicate(0)
    assert duplicates.is_duplicate(1)


def test_the_threshold_divides_close_texts_from_related_ones():
    base = " ".join(words(1000, 0))
    close, related = with_words_replaced(base, 5, 1), with_words_replaced(base, 100, 2)
    assert jaccard(base, close) > 0.9
    assert 0.2 < jaccard(base, related) < 0.6
    duplicates = guard([base, close, related])
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, True, False]
    loose = guard([base, close, related], threshold=0.2)
    assert [loose.is_duplicate(i) for i in range(3)] == [False, True, True]


def test_what_is_left_out_does_not_leave_out_others():
    base = words(1240, 0)
    first, second, third = (" ".join(base[i : i + 1000]) for i in (0, 120, 240))
    assert jaccard(first, second) > 0.75
    assert jaccard(second, third) > 0.75
    assert jaccard(first, third) < 0.65
    duplicates = guard([first, second, third], threshold=0.7)
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, True, False]


def test_nearly_all_pairs_a_little_above_the_threshold_are_found():
    base = words(2000, 0)
    texts = [" ".join(base[i : i + 1000]) for i in (0, 70)]
    assert 0.8 < jaccard(*texts) < 0.9
    found = 0
    for seed in range(50):
        texts = [" ".join(words(2000, seed)[i : i + 1000]) for i in (0, 70)]
        duplicates = guard(texts)
        duplicates.is_duplicate(0)
        found += duplicates.is_duplicate(1)
    assert found >= 44


def test_texts_without_spaces_are_compared_by_character():
    sentence = "選択されたデータで学習したモデルの損失を比較する"
    texts = [
        sentence * 1,
        sentence.replace("比較", "測定"),
        "全く別の文章であり内容も語彙も共通しない",
    ]
    assert len(_shingles(sentence)) > 10
    duplicates = guard(texts, threshold=0.5)
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, True, False]


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.97, 1.0])
def test_every_threshold_finds_equal_texts(threshold):
    texts = [" ".join(words(100, 0))] * 2 + [" ".join(words(100, 1))]
    duplicates = guard(texts, threshold)
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, True, False]


def test_a_text_of_punctuation_alone_is_accepted():
    duplicates = guard(["...", "!!!", "one word"])
    assert [duplicates.is_duplicate(i) for i in range(3)] == [False, True, False]


def test_select_keeps_the_best_of_each_group_of_duplicates():
    texts = [" ".join(words(50, i // 2)) for i in range(8)]
    scores = Scores(
        values=np.array([1.0, 2, 8, 7, 3, 4, 6, 5]),
        num_tokens=np.full(8, 50),
        sources=np.zeros(8, np.int32),
        source_names=("web",),
        method="test",
        target="mix",
        fingerprint="0",
    )
    config = SelectionConfig(candidates=3, near_duplicates=0.8)
    chosen = select(scores, config, is_refused=guard(texts).is_duplicate)
    assert chosen.tolist() == [2, 5, 6]
