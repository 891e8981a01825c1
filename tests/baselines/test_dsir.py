"""DSIR in batches against a loop over n-grams, and against its authors' package."""

import json
import math
import re
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from dsdm.baselines import dsir as dsir_module
from dsdm.baselines.dsir import DsirConfig, dsir
from dsdm.errors import DataError
from tests.baselines.small_inputs import inputs_of

QUIET = DsirConfig(noise=False)
VOCABULARY = ["The", "sea,", "of...", "STARS", "Étoile", "don't", "x_1", "(42)", "海と空", "\n"]
TARGETS = {
    "short": ["the sea", "sea sea stars, missing"],
    "long": ["of a war, and a war of the stars and the sea (42)", "", "x_1!"],
}


def random_texts(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [" ".join(rng.choice(VOCABULARY, length)) for length in lengths]


def ngrams_of(text: str) -> list[str]:
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    return words + [words[i] + " " + words[i + 1] for i in range(len(words) - 1)]


def bucket_of(ngram: str, buckets: int) -> int:
    return int(sha256(ngram.encode("utf-8")).hexdigest(), 16) % buckets


def literal_shares(texts: list[str], buckets: int) -> list[float]:
    counts = Counter(bucket_of(ngram, buckets) for text in texts for ngram in ngrams_of(text))
    return [counts[bucket] / counts.total() for bucket in range(buckets)]


def literal_dsir(texts, targets, weights, buckets):
    pool, mix = literal_shares(texts, buckets), [0.0] * buckets
    for name, examples in targets.items():
        for bucket, share in enumerate(literal_shares(examples, buckets)):
            mix[bucket] += weights[name] / sum(weights.values()) * share
    scores = []
    for text in texts:
        own = [bucket_of(ngram, buckets) for ngram in ngrams_of(text)]
        scores.append(sum(math.log((mix[b] + 1e-8) / (pool[b] + 1e-8)) for b in own))
    return scores


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("buckets", [1, 13, 10_000])
def test_scores_are_those_of_the_formula(monkeypatch, batch, buckets):
    monkeypatch.setattr(dsir_module, "TEXTS", batch)
    texts, weights = random_texts(40), {"short": 3.0, "long": 1.0}
    config = DsirConfig(buckets=buckets, noise=False)
    found = dsir(inputs_of(texts, TARGETS, weights), config)
    expected = literal_dsir(texts, TARGETS, weights, buckets)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-12)
    assert (found.method, found.target, found.fingerprint) == ("dsir", "mix", "abcd")


def test_scores_are_the_authors_importance_weights(tmp_path):
    package = pytest.importorskip("data_selection")
    texts, target = random_texts(100, seed=1), random_texts(20, seed=2)
    for name, rows in (("pool", texts), ("target", target)):
        lines = [json.dumps({"text": text}) + "\n" for text in rows]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    theirs = package.HashedNgramDSIR(
        [str(tmp_path / "pool")], [str(tmp_path / "target")], str(tmp_path / "cache"), num_proc=1
    )
    theirs.fit_importance_estimator(num_tokens_to_fit="all")
    theirs.compute_importance_weights()
    expected = np.load(theirs.log_importance_weights_dir / "0.npy")
    found = dsir(inputs_of(texts, {"target": target}), QUIET)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-12)


def test_forgetting_buckets_changes_nothing(monkeypatch):
    inputs = inputs_of(random_texts(50), TARGETS)
    remembered = dsir(inputs, QUIET).values
    monkeypatch.setattr(dsir_module, "REMEMBERED", 0)
    np.testing.assert_array_equal(dsir(inputs, QUIET).values, remembered)


def test_texts_like_a_target_come_first():
    like, unlike = ["the sea was calm and blue"] * 3, ["stocks fell on weak data today"] * 30
    values = dsir(inputs_of([*like, *unlike], {"t": ["a calm, blue sea"]}), QUIET).values
    assert values[:3].min() > values[3:].max()


def test_targets_count_by_their_weights():
    texts = ["north wind", "south wind"]
    targets = {"north": ["north"], "south": ["south " * 50]}
    values = dsir(inputs_of(texts, targets, {"north": 2.0, "south": 1.0}), QUIET).values
    assert values[0] > values[1]
    values = dsir(inputs_of(texts, targets, {"north": 20.0, "south": 20.0}), QUIET).values
    rescaled = dsir(inputs_of(texts, targets, {"north": 0.5, "south": 0.5}), QUIET).values
    np.testing.assert_allclose(values, rescaled, rtol=1e-12)


def test_noise_is_standard_gumbel_and_seeded():
    texts = ["the sea", "", "of stars", "war"] * 1500
    quiet = dsir(inputs_of(texts, TARGETS), QUIET).values
    noisy = [dsir(inputs_of(texts, TARGETS, seed=seed), DsirConfig()).values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    noise = noisy[0] - quiet
    assert abs(np.corrcoef(noise, noisy[2] - quiet)[0, 1]) < 0.05
    quantiles = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    gumbel = -np.log(-np.log(quantiles))
    np.testing.assert_allclose(np.quantile(noise, quantiles), gumbel, atol=0.15)


def test_an_empty_candidate_scores_nothing():
    values = dsir(inputs_of(["", "the sea", "\n"], TARGETS), QUIET).values
    assert (values[0], values[2]) == (0, 0)


@pytest.mark.parametrize(
    ("texts", "targets", "owner"),
    [
        (["", " "], {"t": ["sea"]}, "The pool"),
        (["sea"], {"t": ["sea"], "blank": ["", "\n"]}, "Target 'blank'"),
    ],
)
def test_text_without_words_is_an_error(texts, targets, owner):
    with pytest.raises(DataError, match=f"{owner} has no words"):
        dsir(inputs_of(texts, targets), QUIET)


def test_the_pass_that_scores_is_counted(monkeypatch):
    monkeypatch.setattr(dsir_module, "TEXTS", 8)
    seen: list[int] = []
    dsir(inputs_of(random_texts(30), TARGETS, advance=seen.append), QUIET)
    assert seen == [8, 8, 8, 6]
