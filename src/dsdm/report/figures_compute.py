"""The figure of loss against training compute."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dsdm.evaluation.comparison import BASELINE
from dsdm.report.compute_curves import ComputeCurve, ComputeReading
from dsdm.report.figures import LONGEST_LABEL, POOL_COLOUR, draw_svg
from dsdm.report.parts import Figure
from dsdm.report.text import visible_text

# After Okabe and Ito (2008), which colour-blind readers tell apart, in shades that stand out from a
# white page and from a black one. Markers tell them apart in print.
_COLOURS = ("#3b7aee", "#d9730d", "#0e9f6e", "#c2559b", "#948012", "#3aa0d8")
_MARKERS = "osD^vPX*<>"
_TIMES = "\N{MULTIPLICATION SIGN}"
_BAR_REACH = 0.6
"""How far beyond the points intervals may widen the axis, as a share of the points' range."""


def compute_plot(
    name: str, title: str, curves: Sequence[ComputeCurve], readings: Sequence[ComputeReading]
) -> Figure:
    """Loss by training FLOPs, and for each reading a line at its loss to random's curve.

    Args:
        name: Keeps the figure's ids apart from others'.
        title: Of the figure.
        curves: Each is one line with markers and intervals; random's is grey.
        readings: Drawn in the colour of the arm's curve.
    """
    styles = _styles(curves)

    def draw(axes: Axes) -> None:
        for curve in curves:
            _draw_curve(axes, curve, *styles[curve.name])
        for reading in readings:
            _draw_reading(axes, reading, styles[_curve_of(reading, curves)][0])
        _set_axes(axes, curves)

    num_lines = math.ceil(len(curves) / 3)
    svg = draw_svg(name, 3.0 + 0.22 * num_lines, draw)
    return Figure(title, svg, {"curves": curves, "readings": readings})


def _styles(curves: Sequence[ComputeCurve]) -> dict[str, tuple[str, str]]:
    """Colour and marker by name."""
    others = [curve.name for curve in curves if curve.name != BASELINE]
    styles = {
        name: (_COLOURS[i % len(_COLOURS)], _MARKERS[1 + i % (len(_MARKERS) - 1)])
        for i, name in enumerate(others)
    }
    return styles | {BASELINE: (POOL_COLOUR, _MARKERS[0])}


def _curve_of(reading: ComputeReading, curves: Sequence[ComputeCurve]) -> str:
    return next(curve.name for curve in curves if reading.arm in curve.arms)


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


def _draw_reading(axes: Axes, reading: ComputeReading, colour: str) -> None:
    ends = [reading.flops, reading.needed_flops]
    axes.plot(ends, [reading.loss] * 2, color=colour, ls=(0, (2, 2)), lw=1)
    # An arrow where random's curve lies beyond what was measured.
    marker = {"": "|", "at least": ">", "at most": "<"}[reading.bound]
    axes.plot(ends[1:], [reading.loss], color=colour, marker=marker, ms=6)


def _set_axes(axes: Axes, curves: Sequence[ComputeCurve]) -> None:
    flops = np.concatenate([curve.flops for curve in curves])
    losses = np.concatenate([curve.losses for curve in curves])
    unit = _usual_flops(curves)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator((_ticks(flops / unit) * unit).tolist()))
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


def _usual_flops(curves: Sequence[ComputeCurve]) -> float:
    """Random's at its usual budget, or the smallest."""
    by_arm = {a: f for curve in curves for a, f in zip(curve.arms, curve.flops, strict=True)}
    return float(by_arm.get(BASELINE, min(by_arm.values())))


def _ticks(multiples: np.ndarray) -> np.ndarray:
    """Powers of two that span the multiples."""
    low, high = np.floor(np.log2(multiples.min()) + 0.1), np.ceil(np.log2(multiples.max()) - 0.1)
    return np.asarray(2.0 ** np.arange(low, high + 1))
