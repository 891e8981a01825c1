"""The report's page and its data: collects every section of a run, and renders them.

Text of the pool is hostile: it reaches the page through `visible_text` and the templates'
autoescape. The page's Content-Security-Policy allows no request, and no script but the sections'
own, by its hash; the page can be read without it.
"""

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import dsdm.reporting.sections  # noqa: F401 - registers the project's own
from dsdm.artifacts import disk_errors, write_whole
from dsdm.reporting import text
from dsdm.reporting.section import SECTIONS, Section
from dsdm.reporting.summary import REPORT
from dsdm.reporting.view import RunView, open_run

FIGURES = "figures.json"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Header:
    """What the page shows of every run."""

    title: str
    estimator: str
    targets: Sequence[str]
    versions: Mapping[str, str]
    selected: Mapping[str, int] | None
    """Candidates and tokens that are selected, and those of the pool."""


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    header: Header
    sections: Sequence[tuple[Section, Any]]
    """In the page's order, each with its data; those that have nothing to show are left out."""


def write_run_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run folder, finished or not, and returns its path.

    Beside it `figures.json`: the data of each section by its name, and of the header as `run`.

    Raises:
        ArtifactError: the folder is not a run's, or something in it is damaged.
    """
    page = collect_page(open_run(run_folder))
    data = {"run": page.header} | {section.name: data for section, data in page.sections}
    figures = json.dumps(plain_data(data), indent=1, ensure_ascii=False, allow_nan=False)
    for path, content in ((FIGURES, figures + "\n"), (REPORT, render_page(page))):
        with disk_errors(run_folder / path):
            write_whole(run_folder / path, content.encode())
    return run_folder / REPORT


def collect_page(run: RunView) -> Page:
    """What the finished artifacts of a run hold."""
    tokenizer, selection = run.manifest("tokenizer"), run.selection
    header = Header(
        title=run.folder.resolve().name,
        estimator=run.experiment.selecting_estimator,
        targets=[target.name for target in run.experiment.targets],
        versions=tokenizer.versions if tokenizer else {},
        selected=selection.counts if selection else None,
    )
    sections = sorted((SECTIONS[name] for name in SECTIONS), key=lambda section: section.order)
    collected = [(section, section.collect(run)) for section in sections]
    return Page(header, [(section, data) for section, data in collected if data is not None])


def render_page(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        autoescape=True,
        # A section's template has an absolute path.
        loader=jinja2.FunctionLoader(lambda name: (HERE / name).read_text(encoding="utf-8")),
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
    script = "".join(section.script for section, _ in page.sections)
    policy = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"script-src 'sha256-{digest}'; "
    rendered = [
        (section, Markup(environment.get_template(str(section.template)).render(data=data)))
        for section, data in page.sections
    ]
    return environment.get_template("page.html.j2").render(
        header=page.header,
        sections=rendered,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_policy=Markup(policy),
    )


def plain_data(value: object) -> Any:
    """`value` as JSON holds it: dataclasses as objects, arrays as lists, NaN as null.

    Fields that are for the page alone are left out.

    Raises:
        TypeError: something in it is no plain data.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if not f.metadata.get("page_only")]
        return {field.name: plain_data(getattr(value, field.name)) for field in fields}
    if isinstance(value, np.ndarray | np.generic):
        return plain_data(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain_data(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [plain_data(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain data")
