"""Whether to trust the scores, as `dsdm check` found it."""

from typing import Any

from dsdm.checking.lines import check_figures
from dsdm.reporting.section import section
from dsdm.reporting.view import RunView
from dsdm.stages.check import load_check


@section("check", order=85, title="Check")
def check(run: RunView) -> dict[str, Any] | None:
    """The verdict with all numbers, and these in words."""
    if run.manifest("check/verdict") is None:
        return None
    found = load_check(run.folder)
    is_measured = found.measured.failure is None
    return {"check": found, "figures": dict(check_figures(found.measured)) if is_measured else {}}
