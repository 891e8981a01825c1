"""The experiment that the run was made with."""

from dsdm.reporting.section import section
from dsdm.reporting.view import EXPERIMENT, RunView


@section("config", order=140, title="Config")
def config(run: RunView) -> str:
    """The experiment's file, as it is."""
    return (run.folder / EXPERIMENT).read_text(encoding="utf-8")
