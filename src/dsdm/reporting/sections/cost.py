"""What the run's stages took."""

import math
from typing import Any

from dsdm.reporting.measured import NOT_SELECTING, stage_costs
from dsdm.reporting.section import section
from dsdm.reporting.text import flops
from dsdm.reporting.view import RunView


@section("cost", order=130, title="Cost")
def cost(run: RunView) -> dict[str, Any] | None:
    """What the stages took, and what of that was for selecting."""
    lines = stage_costs(run.folder, run.experiment, run.stages)
    if not lines:
        return None
    selecting = [line for line in lines if line.stage not in NOT_SELECTING]
    others = ", ".join(line.stage for line in lines if line.stage in NOT_SELECTING)
    seconds, spent = sum(one.seconds for one in selecting), sum(one.flops for one in selecting)
    note = f"Selecting took {seconds:,.1f} s and {flops(spent)} FLOPs, all stages "
    note += f"but {others}" if others else "of this table"
    trainings = sum(line.trainings for line in selecting)
    if not math.isnan(trainings):
        note += f": {trainings:.2f} times the FLOPs of training one target model"
    return {"stages": lines, "note": note + "."}
