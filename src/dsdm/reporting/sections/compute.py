"""Each arm's loss against what its training took, and where random's curve reaches it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dsdm.evaluation.comparison import ALL_TARGETS, BASELINE, ComparedLoss
from dsdm.evaluation.multiplier import ArmMultiplier
from dsdm.reporting.figures import LONGEST_LABEL, POOL_COLOUR, Figure, draw_svg
from dsdm.reporting.measured import AT_BUDGET, FOR_TARGET
from dsdm.reporting.section import section
from dsdm.reporting.text import visible_text
from dsdm.reporting.view import RunView

# After Okabe and Ito (2008), which colour-blind readers tell apart, in shades that stand out from a
# white page and from a black one. Markers tell them apart in print.
_COLOURS = ("#3b7aee", "#d9730d", "#0e9f6e", "#c2559b", "#948012", "#3aa0d8")
_MARKERS = "sD^vPX*<>"
_TIMES = "\N{MULTIPLICATION SIGN}"
_BAR_REACH = 0.6
"""How far beyond the points intervals may widen the axis, as a share of the points' range."""


@dataclass(frozen=True)
class ComputeCurve:
    """One arm at the budgets that it was trained at, the smallest first."""

    name: str
    arms: Sequence[str]
    flops: Float[np.ndarray, " budgets"]
    """Of one training."""
    losses: Float[np.ndarray, " budgets"]
    """Nats a target token."""
    lows: Float[np.ndarray, " budgets"]
    """The interval of the difference to random, about the loss; NaN for random itself."""
    highs: Float[np.ndarray, " budgets"]


@section("compute", order=20, title="Loss against compute")
def compute(run: RunView) -> list[dict[str, Any]] | None:
    """Each part that has a curve of random's or multipliers."""
    found = []
    for measured in run.measured:
        targets = []
        for number, name in enumerate(dict.fromkeys(line.target for line in measured.lines)):
            own = [line for line in measured.lines if line.target == name]
            curves = compute_curves(name, own, measured.training_flops)
            multipliers = [line for line in measured.multipliers if line.target == name]
            figure = None
            if any(curve.name == BASELINE and len(curve.arms) > 1 for curve in curves):
                figure = compute_plot(f"compute-{measured.part}-{number}", curves, multipliers)
            if figure or multipliers:
                targets.append({"name": name, "figure": figure, "multipliers": multipliers})
        if targets:
            found.append({"part": measured.part, "title": measured.title, "targets": targets})
    return found or None


def compute_curves(
    target: str, lines: Sequence[ComparedLoss], flops: Mapping[str, float]
) -> list[ComputeCurve]:
    """The arms of one target as curves, random first; arms selected for another are left out.

    Args:
        target: What the lines are about.
        lines: The arms on that target.
        flops: Of one training, by arm; arms that are not here are left out.
    """
    by_name: dict[str, list[ComparedLoss]] = {BASELINE: []}
    known = [line for line in lines if line.arm in flops]
    for line in sorted(known, key=lambda line: flops[line.arm]):
        name = line.arm.partition(AT_BUDGET)[0]
        _, is_for_one, chosen_for = name.partition(FOR_TARGET)
        if not is_for_one or (chosen_for == target and target != ALL_TARGETS):
            by_name.setdefault(name, []).append(line)
    curves = []
    for name, found in by_name.items():
        losses = np.array([line.loss_nats for line in found])
        differences = [line.difference for line in found]
        lows = np.array([one.low - one.mean if one else math.nan for one in differences])
        highs = np.array([one.high - one.mean if one else math.nan for one in differences])
        if found:
            arms = [line.arm for line in found]
            spent = np.array([flops[arm] for arm in arms])
            curves.append(ComputeCurve(name, arms, spent, losses, losses + lows, losses + highs))
    return curves


def compute_plot(
    name: str, curves: Sequence[ComputeCurve], multipliers: Sequence[ArmMultiplier]
) -> Figure:
    """Loss by training FLOPs, and for each gross multiplier a line along its arm's loss.

    The line ends at random's curve, or where that was last measured.

    Args:
        name: Keeps the figure's ids apart from others'.
        curves: Each is one line with markers and intervals; random's is grey.
        multipliers: Of arms in the curves; others are left out.
    """
    others = [curve.name for curve in curves if curve.name != BASELINE]
    styles = {
        other: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
        for i, other in enumerate(others)
    } | {BASELINE: (POOL_COLOUR, "o")}
    bounds = {line.arm: line.gross.value for line in multipliers}

    def draw(axes: Axes) -> None:
        for curve in curves:
            colour, marker = styles[curve.name]
            _draw_curve(axes, curve, colour, marker)
            for arm, flops, loss in zip(curve.arms, curve.flops, curve.losses, strict=True):
                if arm in bounds:
                    needed, ends = bounds[arm], [flops, flops * bounds[arm].value]
                    axes.plot(ends, [loss, loss], color=colour, ls=(0, (2, 2)), lw=1)
                    # An arrow where random's curve lies beyond what was measured.
                    end = {"": "|", "at least": ">", "at most": "<"}[needed.bound]
                    axes.plot(ends[1:], [loss], color=colour, marker=end, ms=6)
        _set_axes(axes, curves)

    height = 3.0 + 0.22 * math.ceil(len(curves) / 3)
    title = "Loss against training compute"
    return Figure(title, draw_svg(name, height, draw), {"curves": curves})


def _draw_curve(axes: Axes, curve: ComputeCurve, colour: str, marker: str) -> None:
    known = ~np.isnan(curve.lows)
    errors = [(curve.losses - curve.lows)[known], (curve.highs - curve.losses)[known]]
    axes.errorbar(
        curve.flops[known], curve.losses[known], yerr=errors, fmt="none", ecolor=colour, alpha=0.55
    )
    axes.plot(
        curve.flops,
        curve.losses,
        color=colour,
        label=visible_text(curve.name, LONGEST_LABEL),
        lw=1.8 if curve.name == BASELINE else 1.2,
        marker=marker,
        ms=5,
    )


def _set_axes(axes: Axes, curves: Sequence[ComputeCurve]) -> None:
    flops = np.concatenate([curve.flops for curve in curves])
    losses = np.concatenate([curve.losses for curve in curves])
    # Random's at its usual budget, or the smallest.
    by_arm = {a: f for curve in curves for a, f in zip(curve.arms, curve.flops, strict=True)}
    unit = float(by_arm.get(BASELINE, min(by_arm.values())))
    # Powers of two that span the curves.
    low, high = np.log2(flops.min() / unit), np.log2(flops.max() / unit)
    ticks = unit * 2.0 ** np.arange(np.floor(low + 0.1), np.ceil(high - 0.1) + 1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / unit:.2g}{_TIMES}"))
    axes.set_xlim(flops.min() / 1.25, flops.max() * 1.25)
    # One seed more or less must not make the points unreadable.
    reach = _BAR_REACH * max(float(np.ptp(losses)), 0.02)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, losses.min() - reach), min(high, losses.max() + reach))
    text = f"{unit:.1e}".replace("e+", "e")
    axes.set(xlabel=f"training compute (1{_TIMES} = {text} FLOPs)", ylabel="nats per target token")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=3, fontsize=8)
