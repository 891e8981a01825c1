"""Figures as SVG within the page: the same data give the same bytes."""

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib import figure as drawing
from matplotlib.axes import Axes

from dsdm.reporting.section import PAGE_ONLY

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


@dataclass(frozen=True)
class Figure:
    """A drawing with what it shows."""

    title: str
    svg: Markup = field(metadata=PAGE_ONLY)
    data: Mapping[str, Any]
    """What is drawn, as plain values."""


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
