import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dsdm.checking.measured import Curvature
from dsdm.checking.sample import (
    ProxySample,
    curvature_of,
    load_sample,
    other_rows,
    proxy_loss,
    save_sample,
    spread_out,
    unigram_entropy,
)
from dsdm.data.batches import Row
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.learners.lm_layers import moved_layers
from tests.conftest import ListRows, random_rows, tiny_model

RNG = np.random.default_rng(0)


def sample(scores: np.ndarray | None = None) -> ProxySample:
    mix = RNG.normal(size=20) if scores is None else scores
    return ProxySample(
        scores={"mix": mix, "file": mix + RNG.normal(size=len(mix))},
        norms=RNG.random(len(mix)),
        losses=RNG.random(len(mix)),
        scored=RNG.normal(size=5),
        exact=RNG.normal(size=5),
        tune={"file": RNG.normal(size=7)},
    )


def test_a_saved_sample_is_loaded_as_it_was(tmp_path: Path) -> None:
    saved = sample()
    save_sample(saved, tmp_path / "sample.npz")
    loaded = load_sample(tmp_path / "sample.npz")
    for name, value in vars(saved).items():
        np.testing.assert_equal(vars(loaded)[name], value)


def test_the_same_sample_is_the_same_bytes(tmp_path: Path) -> None:
    saved = sample()
    for name in ("a.npz", "b.npz"):
        save_sample(saved, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_rows_are_none_of_those_taken() -> None:
    taken = np.array([2, 3, 5, 7])
    assert other_rows(taken, 8, seed=0).tolist() == [0, 1, 4, 6]
    assert len(set(other_rows(taken, 50, seed=0)) - set(taken)) == 4


def test_a_pool_without_enough_other_rows_has_none() -> None:
    assert other_rows(np.arange(5), 7, seed=0) is None
    assert other_rows(np.arange(4), 6, seed=0).tolist() == [4, 5]


def test_numbers_are_spread_out_from_end_to_end() -> None:
    assert spread_out(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_out(3, 10).tolist() == [0, 1, 2]


def test_a_proxys_loss_is_that_of_the_predicted_tokens_of_rows_it_has_not_seen() -> None:
    one, lengths = sample(), np.arange(1, 21)
    seen = np.arange(20) < 8
    found = proxy_loss(one, lengths, seen, training=0.1, unigram=2.0)
    tokens = [one.losses[row] for row in range(8, 20) for _ in range(lengths[row] - 1)]
    assert found.unseen == pytest.approx(np.mean(tokens))
    assert found.learned == pytest.approx(1 - max(found.unseen, 0.1) / 2)
    assert proxy_loss(one, lengths, np.ones(20, bool), 0.1, 2.0).learned == pytest.approx(0.95)


def test_the_unigram_entropy_is_the_least_loss_of_knowing_frequencies() -> None:
    rows = random_rows(40)
    tokens = [int(token) for row in rows.rows for token in row.tokens[1:]]
    counts = Counter(tokens)
    losses = [-math.log(counts[token] / len(tokens)) for token in tokens]
    assert unigram_entropy(rows) == pytest.approx(np.mean(losses))


def test_rows_of_one_token_over_and_over_have_no_entropy() -> None:
    assert unigram_entropy(ListRows([Row(np.array([1, 4, 4])), Row(np.array([2, 4]))])) == 0


def test_the_dimension_is_that_of_what_is_inverted() -> None:
    model = tiny_model()  # two blocks of width 8: 9x24, 9x8, 9x32, 33x8 with their biases
    layers = moved_layers(model, embeddings=True)
    ekfac = EkfacConfig(curvature_rows=50, damping=0.3)
    assert curvature_of(layers, "ekfac", ekfac, 1000) == Curvature(50, 33, 0.3)
    # And the table of 23 tokens, whose vocabulary only TRAK projects.
    projected = 2 * (9 * 16 + 9 * 8 + 9 * 16 + 16 * 8) + 16 * 8
    trak = TrakConfig(curvature_rows=50, damping=0.3, projection=16)
    assert curvature_of(layers, "trak", trak, 40) == Curvature(40, projected, 0.3)
    for without in ("gradient", "metagradient"):
        assert curvature_of(layers, without, ESTIMATORS[without].settings(), 1000) is None
