from pathlib import Path

import numpy as np
import pytest

from dsdm.checking.sample import (
    ProxySample,
    load_sample,
    other_rows,
    proxy_loss,
    save_sample,
    spread_out,
)

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


def test_a_proxys_loss_is_that_on_rows_it_has_not_seen() -> None:
    one, lengths = sample(), np.full(20, 5)
    seen = np.arange(20) < 8
    found = proxy_loss(one, lengths, seen, training=0.1, unigram=2.0)
    assert found.unseen == pytest.approx(one.losses[8:].mean())
    assert found.learned == pytest.approx(1 - max(found.unseen, 0.1) / 2)
    assert proxy_loss(one, lengths, np.ones(20, bool), 0.1, 2.0).learned == pytest.approx(0.95)
