"""Semantic deduplication against all pairs, by the published rule."""

import numpy as np
import pytest

from dsdm.baselines import semdedup as semdedup_module
from dsdm.baselines.semdedup import SemDedupConfig, semdedup
from dsdm.data.batches import Row
from dsdm.selection import SelectionConfig, select
from tests.baselines.small_inputs import as_texts, inputs_of, read_numbers
from tests.conftest import ListRows, random_rows, tiny_model

ONE = SemDedupConfig(embedding="numbers", clusters=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_vectors(count: int, seed: int = 0, around: float = 1.0) -> np.ndarray:
    """Directions on one side of the sphere, so that cosines are anything from near -1 to near 1."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, 4)) + around * np.array([1, 0, 0, 0]))


def published_largest(vectors: np.ndarray) -> np.ndarray:
    """What is compared with 1 - eps, of one cluster: the upper triangle's column maxima.

    The published code sorts by falling distance from the centroid, then takes triu(x @ x.T, 1).
    """
    centroid = vectors.mean(0) / np.linalg.norm(vectors.mean(0))
    order = sorted(range(len(vectors)), key=lambda i: 1 - vectors[i] @ centroid, reverse=True)
    largest = np.zeros(len(vectors))
    for place, i in enumerate(order):
        largest[i] = max((vectors[i] @ vectors[j] for j in order[:place]), default=-1)
    return largest


@pytest.fixture(params=[1, 7, 10_000])
def block(request, monkeypatch):
    monkeypatch.setattr(semdedup_module, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
def test_scores_of_one_cluster_are_those_of_all_pairs(monkeypatch):
    read_numbers(monkeypatch)
    vectors = random_vectors(60)
    found = semdedup(inputs_of(as_texts(vectors)), ONE)
    np.testing.assert_allclose(found.values, -published_largest(vectors), atol=1e-6)
    assert (found.values == 1).sum() == 1
    assert (found.method, found.fingerprint) == ("semdedup", "abcd")


@pytest.mark.parametrize("eps", [0.005, 0.02, 0.1, 0.5])
def test_the_best_are_what_the_published_threshold_keeps(monkeypatch, eps):
    read_numbers(monkeypatch)
    vectors = random_vectors(200)
    kept = np.flatnonzero(published_largest(vectors) <= 1 - eps)
    assert 0 < len(kept) < 200
    scores = semdedup(inputs_of(as_texts(vectors)), ONE)
    found = select(scores, SelectionConfig(candidates=len(kept)))
    np.testing.assert_array_equal(found, kept)


def test_only_candidates_of_a_cluster_are_compared(monkeypatch):
    """Groups around the axes: k-means finds them, and each is then a pool by itself."""
    read_numbers(monkeypatch)
    groups = np.random.default_rng(0).permutation(np.arange(150) % 3)
    noise = np.random.default_rng(1).normal(size=(150, 3))
    vectors = unit(np.eye(3)[groups] + 0.1 * noise)
    config = SemDedupConfig(embedding="numbers", clusters=3)
    found = semdedup(inputs_of(as_texts(vectors)), config).values
    expected = np.zeros(150)
    for group in range(3):
        expected[groups == group] = -published_largest(vectors[groups == group])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_default_clusters_find_planted_copies(monkeypatch):
    """One of each set of copies is left, and it is not compared with its own copies."""
    read_numbers(monkeypatch)
    rng = np.random.default_rng(0)
    originals = unit(rng.normal(size=(200, 16)))
    which = rng.permutation(np.repeat(np.arange(200), 3))
    vectors = unit(originals[which] + 1e-3 * rng.normal(size=(600, 16)))
    scores = semdedup(inputs_of(as_texts(vectors)), SemDedupConfig(embedding="numbers"))
    best = select(scores, SelectionConfig(candidates=200))
    assert len(set(which[best])) == 200
    assert scores.values[best].min() > -0.99 > np.delete(scores.values, best).max()


def test_copies_in_the_pool_come_last_by_the_proxy():
    rows = random_rows(20, seed=1).rows
    copies = [Row(rows[i].tokens.copy()) for i in (2, 5, 5, 11)]
    inputs = inputs_of(rows=ListRows([*rows, *copies]), models=[tiny_model()])
    scores = semdedup(inputs, SemDedupConfig(clusters=1))
    chosen = select(scores, SelectionConfig(candidates=20))
    assert len({tuple(inputs.rows.row(i).tokens) for i in chosen.tolist()}) == 20


@pytest.mark.parametrize("clusters", [None, 1, 50])
def test_copies_of_one_text_and_a_pool_of_few_are_no_trouble(monkeypatch, clusters):
    read_numbers(monkeypatch)
    config = SemDedupConfig(embedding="numbers", clusters=clusters)
    same = semdedup(inputs_of(["1 2"] * 5), config).values
    np.testing.assert_allclose(sorted(same), [-1, -1, -1, -1, 1], atol=1e-6)
    assert semdedup(inputs_of(["1 2"]), config).values.tolist() == [1]


def test_the_seed_decides_and_both_passes_are_counted(monkeypatch):
    read_numbers(monkeypatch)
    texts, config = as_texts(random_vectors(300)), SemDedupConfig(embedding="numbers")
    seen: list[int] = []
    one = semdedup(inputs_of(texts, seed=1, advance=seen.append), config).values
    assert sum(seen) == 600
    np.testing.assert_array_equal(semdedup(inputs_of(texts, seed=1), config).values, one)
    assert (semdedup(inputs_of(texts, seed=2), config).values != one).any()
