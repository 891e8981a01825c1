"""Loss against compute."""

import numpy as np
import pytest

from dsdm.evaluation.comparison import compare_losses
from dsdm.evaluation.multiplier import MethodCost, multipliers
from dsdm.reporting.sections.compute import compute_curves, compute_plot

BUDGETS = {"random@4": 4.0, "random@0.5": 0.5, "m@2": 2.0}
# Random's loss falls by half a nat with each doubling.
MEANS = {"random": 3.0, "random@0.5": 3.5, "random@4": 2.0, "m": 2.5, "m@2": 1.5, "m:a": 2.9}
LOSSES = {
    arm: {seed: {t: np.full(4, mean + 0.01 * seed) for t in "ab"} for seed in range(2)}
    for arm, mean in MEANS.items()
}
FLOPS = {arm: 1e9 * BUDGETS.get(arm, 1.0) for arm in MEANS}
LINES = compare_losses(LOSSES)


def curves(target):
    return compute_curves(target, [line for line in LINES if line.target == target], FLOPS)


def found(target):
    costs = {arm: MethodCost(flops, 1.0) for arm, flops in FLOPS.items()}
    return [m for m in multipliers(LOSSES, costs, {}, replicates=20) if m.target == target]


def test_budgets_of_one_arm_are_one_curve_by_rising_compute():
    random, method, _ = curves("a")
    assert (random.name, random.arms) == ("random", ["random@0.5", "random", "random@4"])
    assert random.flops.tolist() == [0.5e9, 1e9, 4e9]
    assert random.losses == pytest.approx([3.505, 3.005, 2.005])
    assert method.arms == ["m", "m@2"]


def test_an_arm_for_one_target_is_drawn_on_that_target_alone():
    names = {t: [curve.name for curve in curves(t)] for t in ("a", "b", "mean of targets")}
    assert names == {
        "a": ["random", "m", "m:a"],
        "b": ["random", "m"],
        "mean of targets": ["random", "m"],
    }


def test_intervals_are_of_the_difference_to_random():
    random, method, _ = curves("a")
    assert np.isnan(random.lows[1])
    line = next(line for line in LINES if (line.arm, line.target) == ("m", "a"))
    expected = line.loss_nats + line.difference.low - line.difference.mean
    assert method.lows[0] == pytest.approx(expected)


def test_an_arm_without_a_cost_is_left_out():
    assert compute_curves("a", LINES, {}) == []


def test_the_figure_holds_what_it_draws():
    figure, again = (compute_plot("c", curves("a"), found("a")) for _ in range(2))
    assert figure.svg == again.svg
    assert [curve.name for curve in figure.data["curves"]] == ["random", "m", "m:a"]
    assert "0.5\N{MULTIPLICATION SIGN}" in figure.svg
    assert "1\N{MULTIPLICATION SIGN} = 1.0e09 FLOPs" in figure.svg


def test_a_dashed_line_is_drawn_for_each_multiplier():
    dashed = [compute_plot("c", curves("a"), some).svg for some in ([], found("a"))]
    assert [svg.count("stroke-dasharray: 2") for svg in dashed] == [0, len(found("a"))]


def test_a_figure_without_multipliers_is_drawn_too():
    assert "<svg" in compute_plot("c", curves("mean of targets"), []).svg
