"""Multipliers of synthetic arms whose worth is known."""

import math

import numpy as np
import pytest

from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.curve import Bounded, Estimate
from dsdm.evaluation.multiplier import (
    MethodCost,
    is_random,
    multipliers,
    trainings_text,
    trainings_to_pay,
)

FLOPS, SECONDS = 6e12, 40.0
RANDOM = {"random@0.5": 0.5, "random": 1.0, "random@2": 2.0, "random@4": 4.0}


def law(compute):
    return 3 + 2 * compute**-0.3


def arm_losses(worth, *, num_seeds=3, targets=("a",), noise=0.0, rng=None):
    """Losses of an arm that is worth random at `worth` times the compute."""
    rng = rng or np.random.default_rng(0)
    return {
        seed: {t: law(worth) + noise * rng.normal() + rng.uniform(-1e-9, 1e-9, 4) for t in targets}
        for seed in range(num_seeds)
    }


def compared(worths, selection=None, **options):
    worths = RANDOM | worths
    losses = {arm: arm_losses(worth, **options) for arm, worth in worths.items()}
    training = {
        arm: MethodCost(FLOPS * RANDOM.get(arm, 1), SECONDS * RANDOM.get(arm, 1)) for arm in worths
    }
    return multipliers(losses, training, selection or {}, replicates=300)


@pytest.mark.parametrize("worth", [0.6, 1.0, 1.7, 2.0, 3.9])
def test_the_multiplier_of_a_synthetic_method_is_recovered(worth):
    (line,) = compared({"ekfac": worth})
    assert (line.target, line.arm, line.num_seeds) == ("a", "ekfac", 3)
    assert line.gross.value.bound == ""
    assert line.gross.value.value == pytest.approx(worth, rel=0.02)
    assert line.gross.low.value == pytest.approx(worth, rel=0.02)
    assert line.gross.high.value == pytest.approx(worth, rel=0.02)


def test_beyond_randoms_budgets_the_multiplier_is_a_bound():
    found = {line.arm: line.gross.value for line in compared({"top": 5.0, "bottom": 0.4})}
    assert found == {"top": Bounded(4.0, "at least"), "bottom": Bounded(0.5, "at most")}


def test_an_arm_is_compared_over_the_seeds_that_every_budget_has():
    # Each seed has a level of its own, which must not be taken for a gain.
    losses = {
        arm: {seed: {"a": np.array([law(worth) + seed])} for seed in range(3)}
        for arm, worth in (RANDOM | {"ekfac": 1.7}).items()
    }
    del losses["random@4"][0], losses["random"][2], losses["ekfac"][2]
    training = {arm: MethodCost(FLOPS * RANDOM.get(arm, 1), 1.0) for arm in losses}
    (line,) = multipliers(losses, training, {}, replicates=9)
    assert line.num_seeds == 1
    assert line.gross.value.value == pytest.approx(1.7, rel=0.02)
    del losses["random@4"][1]
    assert multipliers(losses, training, {}, replicates=9) == []


def test_one_budget_is_no_curve():
    losses = {arm: arm_losses(worth) for arm, worth in (("random", 1.0), ("ekfac", 1.7))}
    training = dict.fromkeys(losses, MethodCost(FLOPS, SECONDS))
    assert multipliers(losses, training, {}) == []


def test_one_seed_has_no_interval():
    (line,) = compared({"ekfac": 1.5}, num_seeds=1)
    assert line.gross.low is line.gross.high is None
    assert line.gross.value.value == pytest.approx(1.5, rel=0.02)


def test_a_method_that_trained_for_half_as_long_is_worth_twice_as_much():
    losses = {arm: arm_losses(worth) for arm, worth in (RANDOM | {"dsir": 1.5}).items()}
    training = {arm: MethodCost(FLOPS * worth, 1.0) for arm, worth in RANDOM.items()}
    found = [
        multipliers(losses, training | {"dsir": MethodCost(flops, 1.0)}, {}, replicates=9)[0]
        for flops in (FLOPS, FLOPS / 2)
    ]
    assert found[1].gross.value.value == pytest.approx(2 * found[0].gross.value.value)


def test_every_target_and_their_mean_have_a_line():
    lines = compared({"ekfac": 1.7, "dsir": 1.2}, targets=("a", "b"))
    assert [(line.target, line.arm) for line in lines] == [
        (target, arm) for target in ("a", "b", ALL_TARGETS) for arm in ("ekfac", "dsir")
    ]
    assert lines[-2].gross.value.value == pytest.approx(1.7, rel=0.02)


def test_random_arms_and_arms_without_seeds_have_no_line():
    losses = {"random": arm_losses(1.0), "random@2": arm_losses(2.0), "dsir": {}}
    cost = {"random": MethodCost(1.0, 1.0), "random@2": MethodCost(2.0, 2.0)}
    assert multipliers(losses, cost, {}) == []
    assert multipliers({"dsir": arm_losses(1.5)}, {"dsir": MethodCost(1.0, 1.0)}, {}) == []
    assert multipliers({}, {}, {}) == []


def test_repeated_rows_are_no_random_budget():
    names = ("random", "random@4", "repeated", "ekfac", "randomized")
    assert [name for name in names if is_random(name)] == ["random", "random@4"]


def test_the_net_multiplier_counts_the_selection_in_both_units():
    selection = {"ekfac": MethodCost(FLOPS / 2, 3 * SECONDS)}
    (line,) = compared({"ekfac": 2.0}, selection)
    assert line.net_flops.multiplier.value.value == pytest.approx(2.0 / 1.5, rel=1e-6)
    assert line.net_seconds.multiplier.value.value == pytest.approx(2.0 / 4, rel=1e-6)
    # n * 2 >= n + 0.5 and n * 2 >= n + 3, but for the losses' last digits.
    assert line.net_flops.trainings.value == Bounded(1.0)
    assert line.net_seconds.trainings.value.value in (3, 4)


def test_a_selection_that_costs_anything_lowers_every_figure():
    rng = np.random.default_rng(1)
    for worth, share in zip(rng.uniform(0.3, 6, 20), rng.uniform(1e-3, 9, 20), strict=True):
        cost = {"ekfac": MethodCost(FLOPS * share, SECONDS * share)}
        (line,) = compared({"ekfac": worth}, cost, noise=0.02, rng=rng)
        for net in (line.net_flops.multiplier, line.net_seconds.multiplier):
            for end in ("value", "low", "high"):
                assert getattr(net, end).value < getattr(line.gross, end).value
                assert getattr(net, end).bound == getattr(line.gross, end).bound


def test_a_selection_that_costs_nothing_changes_nothing():
    (line,) = compared({"repeated": 0.9}, {"repeated": MethodCost()})
    assert line.net_flops.multiplier == line.net_seconds.multiplier == line.gross


def test_without_a_known_cost_there_is_no_net_multiplier():
    (line,) = compared({"ekfac": 2.0})
    assert line.net_flops is line.net_seconds is None


@pytest.mark.parametrize("gross", [1.01, 1.3, 1.975, 7.5])
@pytest.mark.parametrize("selection", [0.1, 1.0, 4.5, 100.0])
def test_the_selection_has_paid_after_the_first_training_that_evens_it_out(gross, selection):
    found = trainings_to_pay(Estimate(Bounded(gross)), 2.0, selection).value
    n = 1
    while n * gross * 2.0 < n * 2.0 + selection:
        n += 1
    assert found == Bounded(float(n))


@pytest.mark.parametrize(
    ("gross", "trainings", "text"),
    [
        (Bounded(2.0), Bounded(3.0), "3"),
        (Bounded(4.0, "at least"), Bounded(1.0, "at most"), "<= 1"),
        (Bounded(1.5, "at most"), Bounded(6.0, "at least"), ">= 6"),
        (Bounded(1.0), Bounded(math.inf), "never"),
        (Bounded(0.5, "at most"), Bounded(math.inf), "never"),
        (Bounded(1.0, "at least"), Bounded(math.inf, "at most"), "unknown"),
    ],
)
def test_bounds_of_the_multiplier_bound_the_trainings_the_other_way(gross, trainings, text):
    found = trainings_to_pay(Estimate(gross), 1.0, 3.0).value
    assert found == trainings
    assert trainings_text(found) == text


def test_the_ends_of_the_trainings_are_those_of_the_multiplier_exchanged():
    gross = Estimate(Bounded(2.0), Bounded(0.9), Bounded(4.0, "at least"))
    found = trainings_to_pay(gross, 1.0, 6.0)
    assert found == Estimate(Bounded(6.0), Bounded(2.0, "at most"), Bounded(math.inf))


def test_the_papers_selection_pays_after_five_trainings():
    # 1.2e9 forward-backwards of the proxy are 4.5 times the 1.3B training.
    net = Estimate(Bounded(1.975)).times(1 / 5.5).value
    assert net.text() == "0.36"
    assert trainings_to_pay(Estimate(Bounded(1.975)), 1.0, 4.5).value == Bounded(5.0)


@pytest.mark.parametrize("cost", [None, MethodCost(0.0, 1.0), MethodCost(1.0, 0.0)])
def test_a_training_without_a_cost_is_refused(cost):
    training = {"random": MethodCost(1.0, 1.0)} | ({"dsir": cost} if cost else {})
    losses = {"random": arm_losses(1.0), "dsir": arm_losses(1.5)}
    with pytest.raises(ValueError, match="training of dsir needs FLOPs and seconds above 0"):
        multipliers(losses, training, {})
