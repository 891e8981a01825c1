"""Shares of sources, counted."""

from collections import Counter

import numpy as np
import pytest

from dsdm.baselines.controls import best_source, source_matched
from dsdm.errors import NumericalError
from dsdm.selection import Scores, SelectionConfig, select

NAMES = ("books", "code", "news", "empty")


def random_scores(count: int = 4000, seed: int = 0) -> Scores:
    """Books score best; every third candidate is news."""
    rng = np.random.default_rng(seed)
    sources = rng.choice(3, count, p=[0.2, 0.5, 0.3]).astype(np.int32)
    return Scores(
        values=rng.normal(size=count) + np.array([1.0, 0.0, 0.5])[sources],
        num_tokens=rng.integers(10, 500, count),
        sources=sources,
        source_names=NAMES,
        method="dsdm",
        target="mix",
        fingerprint="abcd",
    )


def tokens_by_source(scores: Scores, chosen: np.ndarray) -> np.ndarray:
    tokens: Counter[int] = Counter()
    for candidate in chosen.tolist():
        tokens[int(scores.sources[candidate])] += int(scores.num_tokens[candidate])
    return np.array([tokens[source] for source in range(len(NAMES))])


def test_the_top_takes_as_many_tokens_of_each_source():
    scores, config = random_scores(), SelectionConfig(fraction=0.1)
    chosen = select(scores, config)
    matched = source_matched(scores, chosen, seed=1)
    again = select(matched, config)
    wanted, found = tokens_by_source(scores, chosen), tokens_by_source(scores, again)
    assert wanted[0] > 2 * wanted[1]
    assert wanted[3] == found[3] == 0
    # The smallest candidates have 10 tokens, and there are many: little is left over.
    np.testing.assert_allclose(found, wanted, atol=30)
    assert matched.method == "source-matched"


def test_what_is_drawn_from_a_source_stays_within_its_tokens():
    scores = random_scores(300)
    chosen = select(scores, SelectionConfig(tokens=8_000))
    matched = source_matched(scores, chosen, seed=1)
    wanted = tokens_by_source(scores, chosen)
    drawn = tokens_by_source(scores, np.flatnonzero(matched.values >= 1))
    assert (drawn <= wanted).all()
    for source in range(3):
        left = (matched.values < 1) & (scores.sources == source)
        assert drawn[source] + scores.num_tokens[left].min() > wanted[source]


def test_equal_lengths_are_drawn_equally_often():
    scores = random_scores(40)
    scores.num_tokens[:] = 100
    chosen = np.flatnonzero(scores.sources == 1)[:5]
    code = np.flatnonzero(scores.sources == 1)
    times = np.zeros(40)
    for seed in range(400):
        drawn = source_matched(scores, chosen, seed).values >= 1
        assert drawn.sum() == 5
        times += drawn
    np.testing.assert_allclose(times[code] / 400, 5 / len(code), atol=0.1)


def test_a_source_that_was_taken_whole_is_taken_whole():
    scores = random_scores(200)
    books = np.flatnonzero(scores.sources == 0)
    matched = source_matched(scores, books, seed=0)
    np.testing.assert_array_equal(np.flatnonzero(matched.values >= 1), books)


def test_the_best_source_comes_first():
    scores = random_scores()
    books = scores.sources == 0
    found = best_source(scores, int(scores.num_tokens[books].sum()), seed=0)
    assert found.values[books].min() > found.values[~books].max()
    assert found.method == "best-source"


def test_a_source_too_small_for_the_budget_is_passed_over():
    scores = random_scores()
    budget = int(scores.num_tokens[scores.sources == 0].sum()) + 1
    found = best_source(scores, budget, seed=0)
    assert set(scores.sources[found.values >= 1]) == {2}
    assert set(scores.sources[select(found, SelectionConfig(tokens=budget))]) == {2}


def test_where_no_source_is_large_enough_all_compete():
    scores = random_scores()
    found = best_source(scores, int(scores.num_tokens.sum()), seed=0)
    assert set(scores.sources[found.values >= 1]) == {0}


def test_the_mean_of_a_source_is_weighted_by_tokens():
    scores = Scores(
        values=np.array([1.0, 0.0, 0.6]),
        num_tokens=np.array([1, 99, 100]),
        sources=np.array([0, 0, 1], np.int32),
        source_names=("a", "b"),
        method="",
        target="",
        fingerprint="",
    )
    assert (best_source(scores, 1, seed=0).values >= 1).tolist() == [False, False, True]
    scores.num_tokens[:2] = 99, 1
    assert (best_source(scores, 1, seed=0).values >= 1).tolist() == [True, True, False]


def test_a_source_of_negative_scores_beats_one_without_candidates():
    scores = random_scores(50)
    scores.values[:] -= 100
    assert (best_source(scores, 1, seed=0).values >= 1).any()


def test_what_is_not_allowed_is_neither_drawn_nor_counted():
    scores = random_scores(400)
    chosen = select(scores, SelectionConfig(tokens=8_000))
    allowed = np.ones(400, bool)
    allowed[np.setdiff1d(np.flatnonzero(scores.sources == 0), chosen)[::2]] = False
    drawn = source_matched(scores, chosen, seed=1, allowed=allowed).values >= 1
    assert allowed[drawn].all()
    wanted = tokens_by_source(scores, chosen)
    found = tokens_by_source(scores, np.flatnonzero(drawn))
    np.testing.assert_allclose(found, wanted, atol=500)
    # Books are best, unless they may not be taken.
    found = best_source(scores, 1, seed=0, allowed=scores.sources != 0)
    assert set(scores.sources[found.values >= 1]) == {2}


def test_a_score_that_is_no_number_is_an_error():
    scores = random_scores(50)
    scores.values[7] = np.nan
    with pytest.raises(NumericalError, match="candidate 7"):
        best_source(scores, 1, seed=0)


def test_the_seed_alone_decides():
    scores = random_scores(100)
    chosen = np.arange(10)
    for control in (source_matched, best_source):
        argument = chosen if control is source_matched else 1000
        one, same, other = (control(scores, argument, seed).values for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
