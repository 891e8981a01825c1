"""How well each direction's forward scores agree with the exact derivative."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsdm.datamodel.calibration import load_calibration
from dsdm.reporting.section import section
from dsdm.reporting.view import RunView


@section("calibration", order=100, title="Calibration")
def calibration(run: RunView) -> dict[str, Any] | None:
    """The steps and correlations that the directions stage has written."""
    lines = [
        {
            "estimator": estimator,
            "checkpoint": checkpoint,
            "target": target,
            "step": step.step,
            "correlation": step.correlation,
            "precision": step.precision,
        }
        for estimator, checkpoint, folder in direction_folders(run)
        for target, step in load_calibration(folder).steps.items()
    ]
    least = run.experiment.scores.min_correlation
    return {"lines": lines, "min_correlation": least} if lines else None


def direction_folders(run: RunView) -> Iterator[tuple[str, int, Path]]:
    """Estimator, checkpoint and folder of the directions that are finished."""
    for estimator in run.experiment.estimators:
        for checkpoint in range(run.experiment.proxies.num_checkpoints):
            place = f"directions/{estimator}/{checkpoint}"
            if run.manifest(place) is not None:
                yield estimator, checkpoint, run.folder / place
