"""What a comparison has measured so far: losses, their differences, compute multipliers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsdm.errors import ArtifactError
from dsdm.evaluation.comparison import ComparedLoss, Losses, compare_losses
from dsdm.evaluation.multiplier import ArmMultiplier, MethodCost, multipliers
from dsdm.experiment import Experiment
from dsdm.pipeline.costs import compared_costs, training_cost
from dsdm.pipeline.losses import load_losses
from dsdm.report.parts import HELDOUT
from dsdm.stages.run import compare_folder


@dataclass(frozen=True)
class MeasuredPart:
    """A comparison on one part of the targets, or on the tasks that nothing was selected for."""

    part: str
    losses: Losses
    lines: list[ComparedLoss]
    training: dict[str, MethodCost]
    """What one training of each arm took, where it was counted."""
    multipliers: list[ArmMultiplier]
    """Empty where random was trained at a single budget."""


def measured_parts(run_folder: Path, experiment: Experiment) -> Iterator[MeasuredPart]:
    """The comparison on each part that has losses, held-out tasks last."""
    compare = experiment.compare
    if compare is None:
        return
    # A run folder may have been moved since.
    experiment = msgspec.structs.replace(experiment, run=str(run_folder))
    mix = [target.name for target in experiment.targets if target.weight > 0]
    targets = [target.name for target in experiment.targets]
    for part in compare.parts:
        losses = load_losses(run_folder, part, compare, targets)
        if losses:
            yield _measured(part, experiment, losses, mix)
    tasks = [task.name for task in compare.heldout]
    losses = load_losses(run_folder, HELDOUT, compare, tasks) if tasks else {}
    if losses:
        yield _measured(HELDOUT, experiment, losses, tasks)


def _measured(part: str, experiment: Experiment, losses: Losses, mix: list[str]) -> MeasuredPart:
    priced = _priced_arms(experiment, losses)
    training, selection = compared_costs(experiment, list(priced))
    found = multipliers(priced, training, selection, mix=mix)
    return MeasuredPart(part, losses, compare_losses(losses, mix=mix), training, found)


def _priced_arms(experiment: Experiment, losses: Losses) -> Losses:
    """Arms but those whose models are gone, or were not counted."""
    assert experiment.compare is not None
    folder = compare_folder(experiment.folder, experiment.compare)
    priced = {}
    for arm, seeds in losses.items():
        with contextlib.suppress(ArtifactError):
            cost = training_cost(folder, arm)
            if cost.flops > 0 and cost.seconds > 0:
                priced[arm] = seeds
    return priced
