"""The loss of models trained on each arm's choice."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dsdm.evaluation.comparison import BASELINE
from dsdm.evaluation.intervals import Interval
from dsdm.reporting.figures import LONGEST_LABEL, POOL_COLOUR, SELECTED_COLOUR, Figure, draw_svg
from dsdm.reporting.measured import interval_note
from dsdm.reporting.section import section
from dsdm.reporting.text import visible_text
from dsdm.reporting.view import RunView


@section("comparison", order=10, title="Comparison")
def comparison(run: RunView) -> list[dict[str, Any]] | None:
    """Each part that has losses."""
    comparisons = []
    for measured in run.measured:
        targets = []
        for number, name in enumerate(dict.fromkeys(line.target for line in measured.lines)):
            own = [line for line in measured.lines if line.target == name]
            intervals = {line.arm: line.difference for line in own if line.difference is not None}
            title = f"Loss minus that of {BASELINE}"
            figure = interval_plot(f"{measured.part}-{number}", title, intervals)
            targets.append({"name": name, "lines": own, "figure": figure if intervals else None})
        found = {"part": measured.part, "title": measured.title, "targets": targets}
        comparisons.append(found | {"note": interval_note(measured.lines)})
    return comparisons or None


def interval_plot(name: str, title: str, intervals: dict[str, Interval]) -> Figure:
    """One line for each label: its mean and interval, and a line at zero."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(intervals))[::-1]
        means = np.array([one.mean for one in intervals.values()])
        errors = [
            [one.mean - one.low for one in intervals.values()],
            [one.high - one.mean for one in intervals.values()],
        ]
        axes.axvline(0, color=POOL_COLOUR, lw=1)
        axes.errorbar(means, places, xerr=errors, fmt="o", color=SELECTED_COLOUR, capsize=3)
        axes.set_yticks(places, [visible_text(label, LONGEST_LABEL) for label in intervals])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="nats per target token", ylim=(-0.6, len(intervals) - 0.4))

    return Figure(title, draw_svg(name, 0.8 + 0.3 * len(intervals), draw), {"intervals": intervals})
