import numpy as np
import pytest

from dsdm.checking.config import ProbeConfig
from dsdm.checking.probe import (
    mean_reductions,
    probe_correlations,
    probe_training,
    reduction_reliability,
    target_losses,
)
from dsdm.lm.config import TrainConfig
from tests.conftest import random_rows, tiny_model

WEIGHTS = {"a": 1.0, "b": 1.0}


def world(noise: float, sign: float = 1.0) -> tuple[dict, dict, list[dict]]:
    """Scores of 12 groups and losses of 30 examples that fall as the scores say."""
    rng = np.random.default_rng(0)
    scores = np.linspace(-2, 2, 12)
    before = {"a": rng.normal(5, 1, 30), "b": rng.normal(3, 1, 30)}
    after = [
        {
            name: losses - sign * 0.1 * score - noise * rng.normal(size=30)
            for name, losses in before.items()
        }
        for score in scores
    ]
    return {"mix": scores, "a": scores, "b": scores}, before, after


def test_a_reduction_is_the_fall_of_the_mean_loss() -> None:
    _, before, after = world(noise=0.5)
    found = mean_reductions(before, after)["b"]
    for number, group in enumerate(after):
        expected = sum(before["b"]) / 30 - sum(group["b"]) / 30
        assert found[number] == pytest.approx(expected)


def test_the_probe_follows_scores_that_are_right() -> None:
    scores, before, after = world(noise=0.01)
    found = probe_correlations(scores, mean_reductions(before, after), WEIGHTS, seed=0)
    assert list(found) == ["mix", "a", "b"]
    assert all(one is not None and one.mean > 0.95 and one.low > 0.5 for one in found.values())


def test_the_probe_is_negative_where_scores_point_the_wrong_way() -> None:
    scores, before, after = world(noise=0.01, sign=-1.0)
    found = probe_correlations(scores, mean_reductions(before, after), WEIGHTS, seed=0)["mix"]
    assert found is not None
    assert found.high < 0


def test_groups_that_score_the_same_have_no_correlation() -> None:
    _, before, after = world(noise=0.01)
    scores = {name: np.ones(12) for name in ("mix", "a", "b")}
    reductions = mean_reductions(before, after)
    assert set(probe_correlations(scores, reductions, WEIGHTS, 0).values()) == {None}


def test_reductions_are_reliable_as_far_as_examples_agree() -> None:
    clear, noisy = (reduction_reliability(*world(noise)[1:], WEIGHTS, 0) for noise in (0.01, 50.0))
    assert clear is not None
    assert noisy is not None
    assert clear > 0.9
    assert noisy < 0.7


def test_one_example_has_no_halves() -> None:
    _, before, after = world(noise=0.01)
    before["b"] = before["b"][:1]
    after = [group | {"b": group["b"][:1]} for group in after]
    assert reduction_reliability(before, after, WEIGHTS, 0) is None


def test_the_probe_trains_as_the_proxies_did_at_its_own_rate_and_batch() -> None:
    proxy = TrainConfig(lr=0.01, batch_tokens=4096, weight_decay=0.3)
    config = ProbeConfig(lr_share=0.5, batch_tokens=128)
    found = probe_training(config, proxy, row_tokens=64)
    assert (found.lr, found.batch_tokens, found.weight_decay) == (0.005, 128, 0.3)
    assert probe_training(config, proxy, row_tokens=256).batch_tokens == 256


def test_losses_are_by_target() -> None:
    rows = {"a": random_rows(3), "b": random_rows(2, seed=1)}
    found = target_losses(tiny_model(), rows, batch_tokens=64)
    assert {name: len(losses) for name, losses in found.items()} == {"a": 3, "b": 2}
