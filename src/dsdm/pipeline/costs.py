"""What the finished work of a run took: by stage, to select by one method, to train one arm.

Measured, from the artifacts' own cost files; `stage_costs` is the forecast.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from dsdm.artifacts import COST, load_cost
from dsdm.baselines.config import BASELINE_NAMES, uses_proxies
from dsdm.errors import ArtifactError
from dsdm.evaluation.multiplier import MethodCost, is_random, mean_cost
from dsdm.experiment import Experiment
from dsdm.stages import STAGES
from dsdm.stages.run import compare_folder

BY_METHOD = ("directions", "screening", "scores", "baselines")
"""Stages whose folders hold one folder for each method."""
TEXT_STAGES = ("tokenizer", "examples", "targets")
NO_SELECTION = ("repeated", "all")


def measured_costs(run_folder: Path) -> dict[str, MethodCost]:
    """What the finished artifacts of each stage took, in the stages' order.

    Keys are folders of the run: `examples`, `directions/ekfac`, `baselines/dsir`, `scores` ...
    Stages that have nothing finished are left out.
    """
    costs = {}
    for stage in dict.fromkeys([*STAGES, *BY_METHOD]):
        for name in _folders(run_folder, stage):
            found = list(_costs(run_folder / name, stage))
            if found:
                costs[name] = sum(found, MethodCost())
    return costs


def selection_cost(run_folder: Path, method: str, *, needs_proxies: bool = False) -> MethodCost:
    """What selecting by one method took, as if it were the only one of the run.

    An estimator needs the tokenizer, all examples, the targets, the proxies, its directions (target
    gradients, curvature and calibration), and the scores; a baseline the text stages and itself.
    Random needs nothing.

    Where stages are shared the method is charged in full, so a net multiplier errs downwards: the
    pool is tokenized for every method, though random too has to tokenize the rows that it trains
    on. Left out is what says nothing about a method and a user of random would do as well: looking
    for overlap with the targets, exporting, and evaluating.

    Args:
        run_folder: Folder of the run.
        method: An estimator, a baseline, `random`, `random@B` or `repeated`.
        needs_proxies: Whether a baseline looks at the proxies; estimators always do.

    Raises:
        ArtifactError: nothing is finished of something that the method needs.
    """
    if is_random(method) or method in NO_SELECTION:
        return MethodCost()
    costs = measured_costs(run_folder)
    needed = list(TEXT_STAGES)
    if f"baselines/{method}" in costs:
        needed += ["proxies"] * needs_proxies + [f"baselines/{method}"]
    else:
        needed += ["proxies", f"directions/{method}", f"scores/{method}"]
        needed += [name for name in (f"screening/{method}", "topics") if name in costs]
    missing = [name for name in needed if name not in costs]
    if missing:
        raise ArtifactError(
            f"{run_folder}: {missing[0]} is not finished, so the cost of selecting by {method} is "
            "not known. Finish the run."
        )
    # Choosing takes seconds, and is done apart for the method that selects alone.
    return sum((costs[name] for name in needed), costs.get("selection", MethodCost()))


def training_cost(run_folder: Path, arm: str) -> MethodCost:
    """The mean cost of the finished trainings of one arm.

    Raises:
        ArtifactError: none is finished.
    """
    models = sorted(run_folder.glob(f"models/*/{COST}"))
    found = [
        cost
        for path in models
        if path.parent.name.rpartition("-")[0] == arm
        for cost in _costs(path.parent, "models")
    ]
    if not found:
        raise ArtifactError(
            f"{run_folder / 'models'}: no training of {arm} is finished. Finish the run."
        )
    return mean_cost(found)


def compared_costs(
    experiment: Experiment, arms: Collection[str]
) -> tuple[dict[str, MethodCost], dict[str, MethodCost]]:
    """By arm, what one training took, and what selecting for it took where that is known."""
    assert experiment.compare is not None
    run_folder = experiment.folder
    models_folder = compare_folder(run_folder, experiment.compare)
    training = {arm: training_cost(models_folder, arm) for arm in arms}
    selection = {}
    for arm in (arm for arm in experiment.compared_arms if arm.name in arms):
        needs_proxies = uses_proxies(arm.method, experiment.baselines)
        # A control of the selection costs what the selection does.
        with contextlib.suppress(ArtifactError):
            method = arm.method or "random"
            if arm.method in BASELINE_NAMES and arm.target is not None:
                method = f"{arm.method}:{arm.target}"
            selection[arm.name] = selection_cost(run_folder, method, needs_proxies=needs_proxies)
    return training, selection


def own_cost(artifact: Path, stage: str) -> MethodCost:
    """What an artifact took, as if its method were the only one.

    A pass over the pool for several estimators costs each of them the whole of it; directions are
    made in one pass for checkpoints of one estimator, which share it.
    """
    cost = load_cost(artifact)
    parts = cost.made_with if stage == "directions" else 1.0
    return MethodCost(cost.flops / parts, cost.seconds / parts)


def _folders(run_folder: Path, stage: str) -> list[str]:
    """The stage's folder, or its methods' where it has them."""
    if stage not in BY_METHOD:
        return [stage]
    names = sorted(path.name for path in (run_folder / stage).glob("[!.]*"))
    return [f"{stage}/{name}" for name in names]


def _costs(folder: Path, stage: str) -> Iterator[MethodCost]:
    """Of each finished artifact of a stage in a folder, or of the folder itself."""
    for path in sorted(folder.rglob(COST)):
        # Artifacts that are being written are hidden.
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield own_cost(path.parent, stage)
