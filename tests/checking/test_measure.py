import numpy as np
import pytest

from dsdm.checking.groups import Group
from dsdm.checking.measure import (
    agreement_of_proxies,
    combined_scores,
    confounds_of,
    gain_over_random,
    probe_groups,
    target_slopes,
)
from dsdm.checking.measured import GroupKind
from dsdm.checking.reliability import spearman
from tests.checking.test_sample import sample

SAMPLES = [sample(), sample()]


def test_what_selects_is_the_mean_over_proxies() -> None:
    found = combined_scores(SAMPLES)
    for name in ("mix", "file"):
        expected = (SAMPLES[0].scores[name] + SAMPLES[1].scores[name]) / 2
        np.testing.assert_allclose(found[name], expected)


def test_proxies_are_compared_on_the_mix_and_on_each_target() -> None:
    mix, target = agreement_of_proxies(SAMPLES)
    assert (mix.name, target.name, mix.pairs) == ("mix", "file", 1)
    assert mix.correlation == spearman(SAMPLES[0].scores["mix"], SAMPLES[1].scores["mix"])
    assert agreement_of_proxies(SAMPLES[:1])[0].correlation is None


def test_target_slopes_are_means_over_examples_and_proxies() -> None:
    (found,) = target_slopes(SAMPLES, seed=0).values()
    assert found.mean == pytest.approx(np.mean([one.tune["file"] for one in SAMPLES]))
    assert found.low < found.mean < found.high


def test_confounds_are_told_apart() -> None:
    lengths = np.arange(20) + 5
    one = sample(scores=lengths.astype(float))
    seen = [np.arange(20) >= 10]
    found = confounds_of([one], seen, lengths, np.repeat([0, 1], 10))
    assert found.length == pytest.approx(1)
    assert found.gradient_norm == spearman(one.scores["mix"], one.norms)
    assert found.num_sources == 2
    assert found.between_sources == pytest.approx(25 / (20**2 - 1) * 12)
    assert found.seen == pytest.approx(10 / np.std(lengths))


def test_rows_of_one_length_say_nothing_of_length() -> None:
    found = confounds_of(SAMPLES, [np.ones(20, bool)] * 2, np.full(20, 9), np.zeros(20, int))
    assert (found.length, found.seen) == (None, None)


def test_the_gain_is_the_high_groups_mean_over_the_random_ones() -> None:
    kinds: list[GroupKind] = ["high", "high", "random", "random", "low", "low"]
    groups: list[Group] = [(kind, np.arange(2)) for kind in kinds]
    reductions = {"a": np.array([0.5, 0.7, 0.1, 0.3, -9.0, 9.0])}
    found = gain_over_random(groups, reductions, seed=0)["a"]
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.6))


def test_a_probe_group_has_its_score_and_what_it_did() -> None:
    groups: list[Group] = [("high", np.arange(3)), ("random", np.arange(3, 5))]
    found = probe_groups(groups, np.array([0.5, 1.5]), {"a": np.array([0.1, 0.2])})
    assert [(one.kind, one.rows, one.score, one.reductions) for one in found] == [
        ("high", 3, 0.5, {"a": 0.1}),
        ("random", 2, 1.5, {"a": 0.2}),
    ]
