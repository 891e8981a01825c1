"""Topics against a literal reading of their definition."""

import math
from collections import Counter

import numpy as np

from dsdm.datamodel.topics import NO_TOPICS, ROWS_A_TOPIC, Topics, fit_topics

Texts = list[list[int]]


def flat(texts: Texts) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows, tokens and the number of rows, as topics take them."""
    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    return row, np.array([token for text in texts for token in text], np.int64), len(texts)


def random_texts(count: int, tokens: range, seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    return [rng.choice(tokens, rng.integers(1, 12)).tolist() for _ in range(count)]


def literal(texts: Texts, sample: Texts, num_tokens: int) -> np.ndarray:
    """Rarity by the log of occurrences, of norm 1, one token at a time."""
    holding = Counter(token for text in sample for token in set(text))
    found = np.zeros((len(texts), num_tokens))
    for number, text in enumerate(texts):
        for token, times in Counter(text).items():
            if token < num_tokens:
                rarity = math.log((len(sample) + 1) / (holding[token] + 1))
                found[number, token] = (1 + math.log(times)) * rarity
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def test_topics_are_where_the_samples_rows_differ_most() -> None:
    sample = random_texts(10 * ROWS_A_TOPIC, range(30), seed=0)
    topics = fit_topics(*flat(sample), seed=0)
    dense = literal(sample, sample, 30)
    assert topics.components.shape == (30, 10)
    _, _, directions = np.linalg.svd(dense)
    # The first ten of 30, by what of a row they hold.
    held = np.linalg.norm(dense @ topics.components) / np.linalg.norm(dense @ directions[:10].T)
    assert 0.99 < held < 1 + 1e-9


def test_a_rows_topics_are_its_weighted_tokens_along_them() -> None:
    sample = random_texts(100, range(30), seed=1)
    topics = fit_topics(*flat(sample), seed=0)
    others = [*random_texts(20, range(40), seed=2), [35], []]  # tokens the sample does not have
    expected = literal(others, sample, 30) @ topics.components
    np.testing.assert_allclose(topics.of(*flat(others)), expected, atol=1e-6)


def test_a_few_rows_have_no_topics() -> None:
    few = random_texts(ROWS_A_TOPIC - 1, range(30), seed=3)
    topics = fit_topics(*flat(few), seed=0)
    assert topics is NO_TOPICS
    assert topics.of(*flat(few)).shape == (len(few), 0)


def test_seeds_beyond_32_bits_are_taken() -> None:
    sample = random_texts(100, range(30), seed=4)
    assert isinstance(fit_topics(*flat(sample), seed=2**63 - 1), Topics)
