"""Random's curve against literal twins and a known law."""

import numpy as np
import pytest

from dsdm.evaluation.curve import (
    Bounded,
    Estimate,
    RandomCurve,
    compute_to_reach,
    monotone_losses,
)

BUDGETS = np.array([0.5, 1.0, 2.0, 4.0])


def law(compute, exponent=0.3):
    return 3 + 2 * np.asarray(compute) ** -exponent


def curve(*losses, budgets=BUDGETS):
    return RandomCurve(np.array(budgets, float), [{0: loss} for loss in losses])


def pool_adjacent_violators(losses, weights):
    blocks = []
    for loss, weight in zip(losses, weights, strict=True):
        blocks.append([loss, weight, 1])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            (m1, w1, n1), (m2, w2, n2) = blocks[-2:]
            blocks[-2:] = [[(m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2]]
    return np.concatenate([[mean] * count for mean, _, count in blocks])


def literal_compute_to_reach(wanted, compute, losses):
    if wanted > losses[0]:
        return 0.0
    for i, loss in enumerate(losses):
        if loss <= wanted:
            if i == 0:
                return compute[0]
            share = (losses[i - 1] - wanted) / (losses[i - 1] - loss)
            rise = np.log(compute[i]) - np.log(compute[i - 1])
            return np.exp(np.log(compute[i - 1]) + share * rise)
    return np.inf


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_monotone_losses_are_those_of_pool_adjacent_violators(count):
    rng = np.random.default_rng(count)
    losses, weights = rng.normal(size=(50, count)), rng.integers(1, 6, count).astype(float)
    expected = [pool_adjacent_violators(line, weights) for line in losses]
    np.testing.assert_allclose(monotone_losses(losses, weights), expected, rtol=0, atol=1e-12)


def test_losses_that_fall_already_are_left_alone():
    losses = np.array([[4.0, 3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(monotone_losses(losses, np.ones(4)), losses)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_inverse_is_that_of_one_curve_at_a_time(count):
    rng = np.random.default_rng(0)
    compute = np.sort(rng.uniform(1, 10, count))
    # Small whole numbers, so that losses tie with each other and with the wanted one.
    losses = -np.sort(-rng.integers(0, 4, (300, count)), axis=1).astype(float)
    wanted = rng.integers(-2, 10, 300) / 2
    expected = [
        literal_compute_to_reach(w, compute, line) for w, line in zip(wanted, losses, strict=True)
    ]
    np.testing.assert_allclose(compute_to_reach(wanted, compute, losses), expected, rtol=1e-12)


@pytest.mark.parametrize(("exponent", "excess"), [(0.1, 0.01), (0.3, 0.02), (0.5, 0.04)])
def test_the_compute_of_a_power_law_is_found_or_slightly_overstated(exponent, excess):
    found = curve(*law(BUDGETS, exponent))
    for compute in np.geomspace(0.5, 4, 40):
        needed = found.needed_compute({0: float(law(compute, exponent))}).value
        assert needed.bound == ""
        assert -1e-12 <= needed.value / compute - 1 < excess


def test_a_lower_loss_needs_no_less_compute():
    found = curve(3.0, 2.5, 2.6, 2.0)
    needed = [found.needed_compute({0: loss}).value.value for loss in np.linspace(3.2, 1.8, 80)]
    assert (np.diff(needed) >= 0).all()


def test_outside_the_measured_budgets_the_compute_is_a_bound():
    found = curve(5.0, 4.0, 3.0, 2.0)
    assert found.needed_compute({0: 5.1}).value == Bounded(0.5, "at most")
    assert found.needed_compute({0: 1.9}).value == Bounded(4.0, "at least")
    assert found.needed_compute({0: 5.0}).value == Bounded(0.5)
    assert found.needed_compute({0: 2.0}).value.value == pytest.approx(4)


def test_one_budget_gives_bounds():
    found = curve(2.0, budgets=[1.0])
    needed = [found.needed_compute({0: loss}).value for loss in (1.9, 2.0, 2.1)]
    assert needed == [Bounded(1.0, "at least"), Bounded(1.0), Bounded(1.0, "at most")]


def test_one_seed_anywhere_leaves_no_interval():
    seeds = [{0: 3.0, 1: 3.1}, {0: 2.0, 1: 2.1}]
    two, one = {0: 2.5, 1: 2.6}, {0: 2.5}
    budgets = np.array([1.0, 2.0])
    assert RandomCurve(budgets, seeds).needed_compute(two).low is not None
    assert RandomCurve(budgets, seeds).needed_compute(one).low is None
    assert RandomCurve(budgets, [seeds[0], {0: 2.0}]).needed_compute(two).low is None


def test_what_all_arms_of_a_seed_share_does_not_widen_the_interval():
    shift = {0: -0.5, 1: 0.1, 2: 0.7}
    losses = [{s: loss + shift[s] for s in shift} for loss in (5.0, 4.0, 3.0, 2.0)]
    found = RandomCurve(BUDGETS, losses).needed_compute({s: 3.5 + shift[s] for s in shift})
    assert found.low.value == pytest.approx(found.value.value)
    assert found.high.value == pytest.approx(found.value.value)


def test_an_end_of_the_interval_outside_the_budgets_is_a_bound():
    losses = [{s: loss for s in range(3)} for loss in (5.0, 4.0, 3.0, 2.0)]
    found = RandomCurve(BUDGETS, losses).needed_compute({0: 1.6, 1: 2.1, 2: 2.6})
    assert found.value.bound == found.low.bound == ""
    assert found.high == Bounded(4.0, "at least")


def test_the_interval_follows_from_its_seed():
    rng = np.random.default_rng(0)
    losses = [dict(enumerate(loss + rng.normal(0, 0.02, 5))) for loss in law(BUDGETS)]
    arm = dict(enumerate(law(1.7) + rng.normal(0, 0.02, 5)))
    found = [RandomCurve(BUDGETS, losses).needed_compute(arm, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0].low.value < found[0].value.value < found[0].high.value


def test_arms_that_share_no_seed_have_an_interval():
    losses = [{0: loss - 0.01, 1: loss + 0.01} for loss in law(BUDGETS)]
    arm = {7: float(law(1.5)), 8: float(law(1.5)) + 0.01}
    found = RandomCurve(BUDGETS, losses).needed_compute(arm)
    assert found.low.value < found.value.value < found.high.value


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_intervals_cover_about_as_often_as_they_say(num_seeds):
    rng = np.random.default_rng(num_seeds)
    truth, trials, covered = 1.7, 200, 0
    # Of the lines themselves, so that only the noise is in question.
    own = np.interp(np.log(truth), np.log(BUDGETS), law(BUDGETS))
    for _ in range(trials):
        # Half of the variance is shared by the arms of a seed.
        noise = rng.normal(0, 0.01, (num_seeds, 5)) + rng.normal(0, 0.01, (num_seeds, 1))
        losses = np.append(law(BUDGETS), own) + noise
        arms = [dict(enumerate(arm)) for arm in losses.T]
        found = RandomCurve(BUDGETS, arms[:-1]).needed_compute(arms[-1], replicates=400)
        low = 0 if found.low.bound == "at most" else found.low.value
        high = np.inf if found.high.bound == "at least" else found.high.value
        covered += low <= truth <= high
    assert 0.88 <= covered / trials <= 0.99


def test_a_bound_is_shown_with_its_sign():
    texts = [Bounded(1234.5, bound).text(1) for bound in ("", "at least", "at most")]
    assert texts == ["1,234.5", ">= 1,234.5", "<= 1,234.5"]


def test_a_multiple_keeps_its_bounds():
    found = Estimate(Bounded(2.0), Bounded(1.0), Bounded(4.0, "at least")).times(0.5)
    assert found == Estimate(Bounded(1.0), Bounded(0.5), Bounded(2.0, "at least"))
