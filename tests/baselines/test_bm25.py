"""BM25 through sparse counts against a loop over words, and against another package."""

import math
import re

import numpy as np
import pytest

from dsdm.baselines import bm25 as bm25_module
from dsdm.baselines.bm25 import Bm25Config, bm25
from tests.baselines.small_inputs import inputs_of

VOCABULARY = ["The", "sea", "of", "stars", "Étoile", "and", "a", "war", "x_1", "42"]
TARGETS = {
    "short": ["the sea", "sea sea stars, missing"],
    "long": ["a war and a war of the stars and the sea", "", "42!"],
}


def random_texts(count: int, seed: int = 0, longest: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [". ".join(rng.choice(VOCABULARY, length)) for length in lengths]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def literal_score(query: list[str], text: list[str], pool: list[list[str]], k1: float, b: float):
    """The formula of one query and one text, word for word."""
    mean_length = sum(map(len, pool)) / len(pool)
    score = 0.0
    for word in query:
        frequency = sum(word in other for other in pool)
        rarity = math.log(1 + (len(pool) - frequency + 0.5) / (frequency + 0.5))
        times = text.count(word)
        if times:
            score += rarity * times / (times + k1 * (1 - b + b * len(text) / mean_length))
    return score


def literal_bm25(texts, targets, weights, k1, b):
    pool = [words_of(text) for text in texts]
    values = np.zeros(len(pool))
    for name, examples in targets.items():
        for query in map(words_of, examples):
            share = weights[name] / sum(weights.values()) / len(examples) / max(len(query), 1)
            values += [share * literal_score(query, text, pool, k1, b) for text in pool]
    return values


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.5), (2.0, 0.0), (0.9, 1.0)])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_scores_are_those_of_the_formula(monkeypatch, k1, b, block):
    monkeypatch.setattr(bm25_module, "TEXTS", block)
    texts, weights = random_texts(40), {"short": 3.0, "long": 1.0}
    found = bm25(inputs_of(texts, TARGETS, weights), Bm25Config(k1=k1, b=b))
    expected = literal_bm25(texts, TARGETS, weights, k1, b)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-15)
    assert (found.method, found.target, found.fingerprint) == ("bm25", "mix", "abcd")


def test_scores_are_those_of_bm25s():
    bm25s = pytest.importorskip("bm25s")
    texts = random_texts(200, seed=3)
    model = bm25s.BM25(k1=1.2, b=0.75, method="lucene", dtype="float64")
    model.index([words_of(text) for text in texts], show_progress=False)
    query = words_of("The stars and the sea of a war")
    found = bm25(inputs_of(texts, {"t": [" ".join(query)]}), Bm25Config())
    expected = model.get_scores(query) / len(query)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)


def test_a_rare_word_counts_more_than_a_common_one():
    texts = ["common rare", "common", "common", "common", "other"]
    values = bm25(inputs_of(texts, {"t": ["common rare"]}), Bm25Config()).values
    assert values[0] == values.max()
    only = bm25(inputs_of([*texts[1:], "rare"], {"t": ["common rare"]}), Bm25Config()).values
    assert only[-1] > only[0] > only[3] == 0


def test_every_example_of_a_target_counts_the_same():
    texts = ["north", "south", "north", "south"]
    values = bm25(inputs_of(texts, {"t": ["north", "south " * 50]}), Bm25Config()).values
    np.testing.assert_allclose(values, values[0])


def test_the_scale_of_the_weights_is_nothing():
    texts = random_texts(30)
    one, ten = (
        bm25(inputs_of(texts, TARGETS, {"short": w, "long": 2 * w}), Bm25Config()).values
        for w in (1.0, 10.0)
    )
    np.testing.assert_allclose(one, ten, rtol=1e-12)


@pytest.mark.parametrize("texts", [["", ""], ["...", "none of them"]])
def test_texts_without_a_word_of_the_targets_score_nothing(texts):
    values = bm25(inputs_of(texts, {"t": ["sea", ""]}), Bm25Config()).values
    np.testing.assert_array_equal(values, 0)


def test_targets_without_words_score_nothing():
    values = bm25(inputs_of(["sea", "war"], {"t": ["", "?!"]}), Bm25Config()).values
    np.testing.assert_array_equal(values, 0)


def test_two_passes_are_counted(monkeypatch):
    monkeypatch.setattr(bm25_module, "TEXTS", 8)
    seen: list[int] = []
    bm25(inputs_of(random_texts(30), TARGETS, advance=seen.append), Bm25Config())
    assert (sum(seen), max(seen)) == (60, 8)
