"""What the targets share with the pool."""

from typing import Any

from dsdm.reporting.section import section
from dsdm.reporting.view import RunView


@section("overlap", order=120, title="Overlap of targets and pool")
def overlap(run: RunView) -> dict[str, Any] | None:
    """By target: its examples, how many overlap, and the candidates that they overlap with."""
    manifest = run.manifest("overlap/all")
    if manifest is None or not manifest.counts:
        return None
    return {"targets": manifest.counts, "is_dropped": run.experiment.drop_overlap}
