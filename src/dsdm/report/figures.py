"""The report's figures, as SVG that stands in the page: same data, same bytes."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib import figure as drawing
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from dsdm.evaluation.intervals import Interval
from dsdm.report.parts import Figure
from dsdm.report.text import visible_text

WIDTH_INCHES = 4.4
LONGEST_LABEL = 30
POOL_COLOUR = "#8a8f98"
SELECTED_COLOUR = "#2563eb"
# Every text and line in this colour takes the page's, so that figures follow its dark mode.
_INK = "#010203"
_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dsdm",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def score_histogram(
    name: str, pool: Float[np.ndarray, " pool"], selected: Float[np.ndarray, " selected"]
) -> Figure:
    """Distributions of scores; the outermost 0.1% at each end are counted in the end bins."""
    low, high = np.quantile(pool, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 61)
    shares = {
        label: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        for label, values in (("pool", pool), ("selected", selected))
        if len(values)
    }
    colours = {"pool": POOL_COLOUR, "selected": SELECTED_COLOUR}

    def draw(axes: Axes) -> None:
        for label, of in shares.items():
            axes.stairs(100 * of, edges, label=label, color=colours[label], fill=True, alpha=0.55)
        axes.set(xlabel="score", ylabel="% of candidates")
        axes.legend()

    data = {"edges": edges, "shares": shares}
    title = "Scores of the pool and of what is selected"
    return Figure(title, draw_svg(name, 2.7, draw), data)


def score_by_length(
    name: str,
    lengths: Float[np.ndarray, " bins"],
    quantiles: Float[np.ndarray, "bins 3"],
) -> Figure:
    """Median score and the middle 80% of scores, by length."""
    low, middle, high = quantiles.T

    def draw(axes: Axes) -> None:
        axes.fill_between(
            lengths, low, high, color=POOL_COLOUR, alpha=0.35, lw=0, label="middle 80%"
        )
        axes.plot(lengths, middle, color=SELECTED_COLOUR, marker=".", label="median")
        axes.set(xlabel="tokens", ylabel="score")
        if lengths[-1] > 10 * lengths[0]:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.legend()

    data = {"num_tokens": lengths, "low": low, "median": middle, "high": high}
    return Figure("Scores by length of the candidate", draw_svg(name, 2.7, draw), data)


def interval_plot(
    name: str, title: str, labels: Sequence[str], intervals: Sequence[Interval]
) -> Figure:
    """One line for each label: its mean and interval, and a line at zero."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels))[::-1]
        means = np.array([interval.mean for interval in intervals])
        errors = [
            [interval.mean - interval.low for interval in intervals],
            [interval.high - interval.mean for interval in intervals],
        ]
        axes.axvline(0, color=POOL_COLOUR, lw=1)
        axes.errorbar(means, places, xerr=errors, fmt="o", color=SELECTED_COLOUR, capsize=3)
        axes.set_yticks(places, [visible_text(label, LONGEST_LABEL) for label in labels])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="nats per target token", ylim=(-0.6, len(labels) - 0.4))

    data = {"labels": labels, "intervals": intervals}
    return Figure(title, draw_svg(name, 0.8 + 0.3 * len(labels), draw), data)


def draw_svg(name: str, height_inches: float, draw: Callable[[Axes], None]) -> Markup:
    """The figure that `draw` makes; `name` keeps its ids apart from other figures'."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's font draws what the one that measures lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = drawing.Figure((WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return Markup(_inline(file.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
