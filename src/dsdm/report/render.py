"""The report of a run: one HTML page that needs nothing else. From data to text, no files read.

Text of the pool is hostile: it reaches the page through `visible_text` and the templates'
autoescape. The page's Content-Security-Policy allows no request, and no script but `page.js`, by
its hash; the page can be read without it.
"""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
from markupsafe import Markup

from dsdm.evaluation.agreement import Agreement
from dsdm.report import text
from dsdm.report.chosen import ChosenOverlap, ChosenSources
from dsdm.report.examples import ExamplesBrowser
from dsdm.report.parts import (
    Calibration,
    Comparison,
    Figure,
    Matrix,
    Selected,
    SourceShare,
    StageCost,
    TargetOverlap,
)

TEMPLATE = "page.html.j2"
STYLE = "page.css"
SCRIPT = "page.js"
BAR_SOURCES = 7
"""Sources that have a colour of their own in the bars."""


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
    chosen_sources: ChosenSources | None = None
    chosen_overlap: ChosenOverlap | None = None
    sources: Sequence[SourceShare] = ()
    num_other_sources: int = 0
    score_figures: Sequence[Figure] = ()
    length_correlation: float = math.nan
    completion_correlation: float = math.nan
    screened: str = ""
    """What a selection from a screened pool is worth."""
    examples: ExamplesBrowser | None = None
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

    @property
    def has_compute(self) -> bool:
        """Whether any loss is drawn against compute."""
        targets = (target for comparison in self.comparisons for target in comparison.targets)
        return any(target.compute_figure or target.multipliers for target in targets)

    @property
    def has_transfers(self) -> bool:
        """Whether any arm was selected for one target."""
        return any(comparison.transfers for comparison in self.comparisons)


def render_report(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_read),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "visible": text.visible_text,
        "number": text.number,
        "signed": text.signed,
        "percent": text.percent,
        "flops": text.flops,
        "bounded": text.bounded,
        "trainings": text.trainings,
        "shade": text.shade,
        "ratio_shade": text.ratio_shade,
    }
    script = _read(SCRIPT) if report.examples else ""
    return environment.get_template(TEMPLATE).render(
        report=report,
        style=Markup(_read(STYLE)),
        script=Markup(script),
        script_policy=Markup(_script_policy(script)),
        bar_sources=BAR_SOURCES,
    )


def _read(name: str) -> str:
    return (files("dsdm.report") / "page" / name).read_text(encoding="utf-8")


def _script_policy(script: str) -> str:
    """What a Content-Security-Policy needs to let this one script run."""
    if not script:
        return ""
    digest = hashlib.sha256(script.encode()).digest()
    return f"script-src 'sha256-{base64.b64encode(digest).decode()}'; "
