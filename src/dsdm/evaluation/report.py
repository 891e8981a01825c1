"""The report of a run: one HTML page that needs nothing else. From data to text, no files read.

Text of the pool is hostile: it reaches the page through `visible_text` and the template's
autoescape, and the page's Content-Security-Policy allows no script and no request.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from dsdm.evaluation.agreement import Agreement, mean_agreements
from dsdm.evaluation.comparison import ComparedLoss

TEMPLATE = "report.html.j2"
STYLE = "report.css"
EXCERPT_CHARACTERS = 300
MINUS = "\N{MINUS SIGN}"
NO_VALUE = "\N{EN DASH}"
# Control characters, and those that turn the direction of the text after them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ufeff]"
)


@dataclass(frozen=True)
class Figure:
    """A drawing with what it shows."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Selected:
    """How much was selected."""

    candidates: int
    tokens: int
    pool_candidates: int
    pool_tokens: int


@dataclass(frozen=True)
class SourceShare:
    """One source's part of the selection and of the pool; shares are of tokens, in 0..1."""

    name: str
    selected_share: float
    pool_share: float
    selected_candidates: int
    pool_candidates: int
    mean_score: float

    @property
    def ratio(self) -> float:
        """How many times as common in the selection as in the pool."""
        return self.selected_share / self.pool_share if self.pool_share else math.nan


@dataclass(frozen=True)
class Excerpt:
    """A candidate to look at."""

    candidate: int
    id: str
    source: str
    score: float
    num_tokens: int
    selected: bool
    text: str

    @property
    def start(self) -> str:
        """The first few hundred characters."""
        return self.text[:EXCERPT_CHARACTERS]

    @property
    def rest(self) -> str:
        """What comes after them; empty for a short text."""
        return self.text[EXCERPT_CHARACTERS:]


@dataclass(frozen=True)
class ExcerptGroup:
    """Candidates that are shown together."""

    title: str
    excerpts: Sequence[Excerpt]


@dataclass(frozen=True)
class Matrix:
    """Correlations of some columns with each other."""

    title: str
    over: str
    """What the correlations are over, such as `5,000 candidates`."""
    note: str
    labels: Sequence[str]
    values: Float[np.ndarray, "labels labels"]

    def agreements(self) -> list[Agreement]:
        """Means over pairs of proxies and over pairs of targets."""
        return mean_agreements(self.labels, self.values, self.over)


@dataclass(frozen=True)
class Calibration:
    """How well one direction's forward scores agree with the exact derivative."""

    method: str
    proxy: str
    target: str
    step: float
    correlation: float


@dataclass(frozen=True)
class TargetOverlap:
    """What one target shares with the pool, 13 words in a row."""

    target: str
    examples: int
    overlapping: int
    candidates: int


@dataclass(frozen=True)
class StageCost:
    """What a stage's finished artifacts took."""

    stage: str
    artifacts: int
    seconds: float
    flops: float


@dataclass(frozen=True)
class ComparedTarget:
    """The arms of a comparison on one target."""

    name: str
    lines: Sequence[ComparedLoss]
    figure: Figure | None


@dataclass(frozen=True)
class Comparison:
    """The arms of a comparison on one part of the targets."""

    part: str
    targets: Sequence[ComparedTarget]
    note: str


@dataclass(frozen=True)
class Report:
    """All that the page shows; a part that is empty or None leaves its section out."""

    title: str
    method: str
    targets: Sequence[str]
    config: str
    versions: dict[str, str]
    selected: Selected | None = None
    comparisons: Sequence[Comparison] = ()
    sources: Sequence[SourceShare] = ()
    num_other_sources: int = 0
    score_figures: Sequence[Figure] = ()
    length_correlation: float = math.nan
    excerpts: Sequence[ExcerptGroup] = ()
    agreements: Sequence[Agreement] = ()
    matrices: Sequence[Matrix] = ()
    calibrations: Sequence[Calibration] = ()
    min_correlation: float = math.nan
    counts: dict[str, int] = field(default_factory=dict)
    """Documents, rows, tokens, duplicates and rejected records of the pool."""
    rejections: dict[str, int] = field(default_factory=dict)
    """Rejected records by reason."""
    overlaps: Sequence[TargetOverlap] = ()
    overlap_dropped: bool = False
    costs: Sequence[StageCost] = ()
    cost_note: str = ""


def render_report(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "visible": visible_text,
        "number": _number,
        "signed": _signed,
        "percent": _percent,
        "flops": _flops,
        "shade": _shade,
    }
    folder = files("dsdm.evaluation")
    template = environment.from_string((folder / TEMPLATE).read_text(encoding="utf-8"))
    style = Markup((folder / STYLE).read_text(encoding="utf-8"))
    return template.render(report=report, style=style)


def visible_text(text: str, longest: int | None = None) -> str:
    """`text` with invisible characters spelled out, cut to `longest` characters.

    Markup is not escaped here: the template does that.
    """
    if longest is not None and len(text) > longest:
        text = text[:longest] + "…"
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _number(value: int | float, digits: int = 0) -> str:
    if math.isnan(value):
        return NO_VALUE
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, digits) + 0:,.{digits}f}".replace("-", MINUS)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)


def _percent(share: int | float) -> str:
    return NO_VALUE if math.isnan(share) else f"{100 * share:.1f}%"


def _flops(value: int | float) -> str:
    return f"{value:.2e}".replace("e+", "e") if value else NO_VALUE


def _shade(correlation: float) -> str:
    """A cell's background: blue for agreement, orange for its opposite."""
    if math.isnan(correlation):
        return "transparent"
    colour = "37, 99, 235" if correlation > 0 else "234, 88, 12"
    return f"rgba({colour}, {0.6 * abs(correlation):.2f})"
