"""What a run has measured so far: costs of its stages and arms, losses, and compute multipliers.

Read from the artifacts' own files; the forecast is in `dsdm.forecast`.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsdm.artifacts import COST, load_cost, load_manifest
from dsdm.baselines import BASELINES, reads_proxies
from dsdm.evaluation.arms import CompareConfig
from dsdm.evaluation.comparison import ComparedLoss, Losses, compare_losses
from dsdm.evaluation.multiplier import ArmMultiplier, MethodCost, mean_cost, multipliers
from dsdm.experiment import Experiment
from dsdm.stages.baselines import baseline_folder
from dsdm.stages.run import compare_folder, evaluation_folder

HELDOUT = "heldout"
"""Stands for a part of the targets: tasks that nothing was selected for."""
IN_COMPARISON = ("tuning", "models", "evaluations")
"""Stages whose folders are within the comparison's."""
NOT_SELECTING = ("check", "baselines", "heldout", *IN_COMPARISON)
"""Stages that selecting does not need."""
AT_BUDGET = "@"
"""Between an arm's name and how many times the usual budget it is trained on."""
FOR_TARGET = ":"
"""Between the method and the target in the name of an arm that is selected for one target."""


@dataclass(frozen=True)
class StageCost:
    """What a stage's finished artifacts took."""

    stage: str
    artifacts: int
    seconds: float
    flops: float
    trainings: float = math.nan
    """`flops` as a share of training one target model; NaN where none is trained."""


@dataclass(frozen=True)
class MeasuredPart:
    """A comparison on one part of the targets, or on the tasks that nothing was selected for."""

    part: str
    losses: Losses
    lines: list[ComparedLoss]
    training_flops: dict[str, float]
    """Of one training of each arm, where they were counted."""
    multipliers: list[ArmMultiplier]
    """Empty where random was trained at a single budget."""

    @property
    def title(self) -> str:
        """What the arms are compared on."""
        if self.part == HELDOUT:
            return "tasks that nothing was selected for"
        return f"the targets' {self.part} part"


def finished_below(folder: Path) -> list[Path]:
    """The folders of finished artifacts at or below one, sorted; drafts are hidden folders."""
    found = [path.parent.relative_to(folder) for path in sorted(folder.rglob(COST))]
    return [folder / path for path in found if not any(p.startswith(".") for p in path.parts)]


def stage_costs(folder: Path, experiment: Experiment, stages: Sequence[str]) -> list[StageCost]:
    """What the finished artifacts of each stage took, in the stages' order."""
    compared = compare_folder(folder, experiment.compare) if experiment.compare else folder
    models = [path for path in finished_below(compared / "models") if AT_BUDGET not in path.name]
    training = sum(load_cost(path).flops for path in models) / len(models) if models else 0.0
    lines = []
    for stage in stages:
        place = compared if stage in IN_COMPARISON else folder
        costs = [load_cost(path) for path in finished_below(place / stage)]
        if costs:
            # What one call made together has the cost of the whole call.
            seconds = sum(cost.seconds / cost.made_with for cost in costs)
            flops = sum(cost.flops / cost.made_with for cost in costs)
            trainings = flops / training if training else math.nan
            lines.append(StageCost(stage, len(costs), seconds, flops, trainings))
    return lines


def method_cost(folder: Path, *, is_shared: bool = False) -> MethodCost | None:
    """What all artifacts at or below a folder took; None where none is finished.

    Args:
        folder: Of a method, or of a stage that every method needs.
        is_shared: Whether artifacts that one call made share its cost. Scores by several estimators
            do not: each would take the whole pass by itself.
    """
    total, found = MethodCost(), finished_below(folder)
    for cost in map(load_cost, found):
        parts = cost.made_with if is_shared else 1
        total += MethodCost(cost.flops / parts, cost.seconds / parts)
    return total if found else None


def selection_cost(
    run_folder: Path, method: str, *, needs_proxies: bool = False
) -> MethodCost | None:
    """What selecting by one method took, as if it were the only one; None before it is finished.

    An estimator needs the tokenizer, all examples, the targets, the proxies, its directions (target
    gradients, curvature and calibration), and the scores; a baseline the text stages and itself.

    Where stages are shared the method is charged in full, so a net multiplier errs downwards: the
    pool is tokenized for every method, though random too has to tokenize the rows that it trains
    on. Overlap, export and evaluation are left out: they take as long for random.

    Args:
        run_folder: Folder of the run.
        method: An estimator, or the folder of a baseline.
        needs_proxies: Whether a baseline looks at the proxies; estimators always do.
    """
    needed = ["tokenizer", "examples", "targets"]
    if (run_folder / "baselines" / method).is_dir():
        needed += ["proxies"] * needs_proxies + [f"baselines/{method}"]
    else:
        needed += ["proxies", f"directions/{method}", f"scores/{method}"]
        made = [f"screening/{method}", "topics"]
        needed += [name for name in made if finished_below(run_folder / name)]
    total = method_cost(run_folder / "selection") or MethodCost()
    for name in needed:
        # The directions at several checkpoints come from one pass.
        cost = method_cost(run_folder / name, is_shared=name.startswith("directions/"))
        if cost is None:
            return None
        total += cost
    return total


def training_cost(comparison: Path, arm: str) -> MethodCost | None:
    """The mean cost of the finished trainings of one arm; None where there is none."""
    models = finished_below(comparison / "models")
    costs = [load_cost(path) for path in models if path.name.rpartition("-")[0] == arm]
    return mean_cost([MethodCost(c.flops, c.seconds) for c in costs]) if costs else None


def compared_costs(
    run_folder: Path, experiment: Experiment, arms: Collection[str]
) -> tuple[dict[str, MethodCost], dict[str, MethodCost]]:
    """By arm, what one training took, and what selecting for it took, each where it is known."""
    assert experiment.compare is not None
    comparison = compare_folder(run_folder, experiment.compare)
    training, selection = {}, {}
    for arm in (arm for arm in experiment.compared_arms if arm.name in arms):
        trained = training_cost(comparison, arm.name)
        # A control of the selection costs what the selection does; random rows need none.
        selected: MethodCost | None = MethodCost()
        if arm.method:
            is_baseline = arm.method in BASELINES
            selected = selection_cost(
                run_folder,
                baseline_folder(arm.method, arm.target) if is_baseline else arm.method,
                needs_proxies=is_baseline and reads_proxies(experiment.baselines, arm.method),
            )
        if trained is not None:
            training[arm.name] = trained
        if selected is not None:
            selection[arm.name] = selected
    return training, selection


def load_losses(run_folder: Path, part: str, compare: CompareConfig, targets: list[str]) -> Losses:
    """The loss of each example by arm, seed and target, of the evaluations that are finished."""
    losses: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    comparison = compare_folder(run_folder, compare)
    for arm in compare.arms:
        for seed in range(compare.seeds):
            folder = evaluation_folder(comparison, part, f"{arm}-{seed}")
            if load_manifest(folder) is not None:
                losses.setdefault(arm, {})[seed] = {
                    target: np.load(folder / f"{target}.npy") for target in targets
                }
    return losses


def measured_parts(run_folder: Path, experiment: Experiment) -> Iterator[MeasuredPart]:
    """The comparison on each part that has losses, held-out tasks last."""
    compare = experiment.compare
    if compare is None:
        return
    targets = [target.name for target in experiment.targets]
    mix = [target.name for target in experiment.targets if target.weight > 0]
    heldout = [task.name for task in compare.heldout]
    parts = [(part, targets, mix) for part in compare.parts]
    for part, names, mixed in [*parts, (HELDOUT, heldout, heldout)]:
        losses = load_losses(run_folder, part, compare, names) if names else {}
        if not losses:
            continue
        training, selection = compared_costs(run_folder, experiment, losses)
        # Models may be gone, and what trains them may not be counted.
        counted = {arm for arm, cost in training.items() if cost.flops > 0 and cost.seconds > 0}
        priced = {arm: seeds for arm, seeds in losses.items() if arm in counted}
        yield MeasuredPart(
            part,
            losses,
            compare_losses(losses, mix=mixed),
            {arm: training[arm].flops for arm in priced},
            multipliers(priced, training, selection, mix=mixed),
        )


def interval_note(lines: Sequence[ComparedLoss]) -> str:
    """What the intervals of a comparison are over; empty where it has none."""
    over = {line.over for line in lines if line.difference is not None}
    if not over:
        return ""
    paired = "Intervals: paired t over the seeds that both arms have."
    if over == {"seeds"}:
        return paired
    one_seed = (
        "paired bootstrap over the examples, for one seed. They leave out how much another seed "
        "would change: set compare.seeds to 2 or more for that."
    )
    if over == {"examples"}:
        return f"Intervals: {one_seed}"
    return f"{paired} Where that is one seed: {one_seed}"
