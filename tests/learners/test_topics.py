"""Topics against a literal reading of their definition."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dsdm.errors import ArtifactError
from dsdm.learners.topics import (
    GROUPS,
    NO_TOPICS,
    ROWS_A_TOPIC,
    TEXTS_A_GROUP,
    Topics,
    fit_groups,
    fit_topics,
    load_groups,
)

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


def kinds_of_texts(count: int, seed: int) -> tuple[Texts, np.ndarray]:
    """Texts of three kinds that share a third of their words, and the kind of each."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)
    texts = [
        [*rng.integers(0, 20, 8), *(20 + 20 * kind + rng.integers(0, 20, 16))] for kind in kinds
    ]
    return texts, kinds


def test_texts_of_one_kind_are_in_one_group(tmp_path: Path) -> None:
    groups = fit_groups(*flat(kinds_of_texts(3 * TEXTS_A_GROUP, seed=0)[0]), seed=0)
    groups.save(tmp_path)
    texts, kinds = kinds_of_texts(100, seed=1)
    found = load_groups(tmp_path).of(*flat(texts))
    assert len(groups) == 3
    assert len(set(zip(found.tolist(), kinds.tolist(), strict=True))) == 3
    assert groups.of(*flat([[], *texts]))[1:].tolist() == found.tolist()


def test_a_few_texts_are_one_group() -> None:
    texts = random_texts(2 * TEXTS_A_GROUP - 1, range(30), seed=3)
    groups = fit_groups(*flat(texts), seed=0)
    assert len(groups) == 1
    assert not groups.of(*flat(texts)).any()


def test_damaged_groups_are_an_error(tmp_path: Path) -> None:
    (tmp_path / GROUPS).write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match=r"groups\.npz: can't be read"):
        load_groups(tmp_path)
