"""What the report shows of a run's comparison: losses, compute, transfer, and what arms chose."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from dsdm.artifacts import load_manifest
from dsdm.errors import ArtifactError
from dsdm.evaluation.comparison import BASELINE, ComparedLoss, Losses, compare_losses
from dsdm.evaluation.multiplier import ArmMultiplier, MethodCost, is_random, multipliers
from dsdm.experiment import Experiment
from dsdm.pipeline.compare_stages import CANDIDATES
from dsdm.pipeline.costs import compared_costs, training_cost
from dsdm.pipeline.losses import load_losses
from dsdm.pipeline.report_scores import ScoredPool
from dsdm.pipeline.run import compare_folder
from dsdm.pipeline.summary import interval_note
from dsdm.report.chosen import chosen_overlap, chosen_sources
from dsdm.report.compute_curves import AT_BUDGET, compute_curves, compute_readings
from dsdm.report.figures import interval_plot
from dsdm.report.figures_compute import compute_plot
from dsdm.report.parts import HELDOUT, ComparedTarget, Comparison, Figure
from dsdm.report.transfer import transfer_matrices

MOST_SOURCES = 20


def comparisons(run_folder: Path, experiment: Experiment) -> Iterator[Comparison]:
    """The comparison on each part of the targets that has losses, and on held-out tasks."""
    compare = experiment.compare
    if compare is None:
        return
    # A run folder may have been moved since.
    experiment = msgspec.structs.replace(experiment, run=str(run_folder))
    targets = [target.name for target in experiment.targets]
    evaluated = dict.fromkeys(compare.parts, targets)
    for part, names in (evaluated | {HELDOUT: [task.name for task in compare.heldout]}).items():
        losses = load_losses(run_folder, part, compare, names) if names else {}
        if losses:
            yield _comparison(part, experiment, losses)


def chosen_parts(run_folder: Path, experiment: Experiment, pool: ScoredPool) -> dict[str, object]:
    """The parts of the report about what each arm chose, by name; none without any."""
    chosen = chosen_candidates(run_folder, experiment)
    if not chosen:
        return {}
    scores = pool.scores
    names = scores.source_names
    return {
        "chosen_sources": chosen_sources(
            chosen, scores.num_tokens, scores.sources, names, MOST_SOURCES
        ),
        "chosen_overlap": chosen_overlap(chosen, len(scores.values)) if len(chosen) > 1 else None,
    }


def chosen_candidates(run_folder: Path, experiment: Experiment) -> dict[str, np.ndarray]:
    """Distinct candidates by arm, of each arm's first seed, where the run kept them.

    Other budgets of an arm are left out: they choose alike.
    """
    compare, chosen = experiment.compare, {}
    for arm in (arm for arm in (compare.arms if compare else ()) if AT_BUDGET not in arm):
        assert compare is not None
        folder = compare_folder(run_folder, compare) / "models" / f"{arm}-0"
        if load_manifest(folder) is not None and (folder / CANDIDATES).is_file():
            chosen[arm] = np.unique(np.load(folder / CANDIDATES))
    return chosen


def _comparison(part: str, experiment: Experiment, losses: Losses) -> Comparison:
    lines = compare_losses(losses)
    training, selection = compared_costs(experiment, _priced_arms(experiment, losses))
    found = _multipliers(losses, training, selection)
    targets = [target.name for target in experiment.targets]
    return Comparison(
        part,
        list(_compared_targets(part, lines, training, found)),
        interval_note(lines),
        transfer_matrices(lines, targets, _mix_arms(experiment, losses)),
    )


def _compared_targets(
    part: str,
    lines: Sequence[ComparedLoss],
    training: Mapping[str, MethodCost],
    found: Sequence[ArmMultiplier],
) -> Iterator[ComparedTarget]:
    flops = {arm: cost.flops for arm, cost in training.items()}
    for number, name in enumerate(dict.fromkeys(line.target for line in lines)):
        own = [line for line in lines if line.target == name]
        yield ComparedTarget(
            name,
            own,
            _interval_figure(f"{part}-{number}", own),
            _compute_figure(f"compute-{part}-{number}", name, own, flops, found),
            [line for line in found if line.target == name],
        )


def _interval_figure(name: str, lines: Sequence[ComparedLoss]) -> Figure | None:
    found = [(line.arm, line.difference) for line in lines if line.difference is not None]
    if not found:
        return None
    arms, intervals = zip(*found, strict=True)
    return interval_plot(name, f"Loss minus that of {BASELINE}", arms, intervals)


def _compute_figure(
    name: str,
    target: str,
    lines: Sequence[ComparedLoss],
    flops: Mapping[str, float],
    found: Sequence[ArmMultiplier],
) -> Figure | None:
    """None where random was trained at a single budget: there is no curve to read."""
    curves = compute_curves(target, lines, flops)
    if not any(curve.name == BASELINE and len(curve.arms) > 1 for curve in curves):
        return None
    title = "Loss against training compute"
    return compute_plot(name, title, curves, compute_readings(target, curves, found))


def _multipliers(
    losses: Losses, training: Mapping[str, MethodCost], selection: Mapping[str, MethodCost]
) -> list[ArmMultiplier]:
    """Of the arms whose training's cost is known; none where random has a single budget."""
    priced = {arm: seeds for arm, seeds in losses.items() if arm in training}
    if sum(map(is_random, priced)) < 2:
        return []
    return multipliers(priced, training, selection)


def _priced_arms(experiment: Experiment, losses: Losses) -> list[str]:
    """Arms but those whose models are gone, or were not counted."""
    assert experiment.compare is not None
    folder = compare_folder(experiment.folder, experiment.compare)
    priced = []
    for arm in losses:
        with contextlib.suppress(ArtifactError):
            cost = training_cost(folder, arm)
            priced += [arm] if cost.flops > 0 and cost.seconds > 0 else []
    return priced


def _mix_arms(experiment: Experiment, losses: Losses) -> dict[str, str]:
    """The arm that selects for all targets at once, where it is not called by its method."""
    method = experiment.selecting_method
    return {method: "top"} if method not in losses and "top" in losses else {}
