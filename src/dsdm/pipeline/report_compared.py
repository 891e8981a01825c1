"""What the report shows of a run's comparison: losses, compute, transfer, and what arms chose."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dsdm.artifacts import load_manifest
from dsdm.evaluation.comparison import BASELINE, ComparedLoss, Losses
from dsdm.evaluation.multiplier import ArmMultiplier
from dsdm.experiment import Experiment
from dsdm.pipeline.measured import MeasuredPart, measured_parts
from dsdm.pipeline.report_scores import ScoredPool
from dsdm.pipeline.summary import interval_note
from dsdm.report.chosen import chosen_overlap, chosen_sources
from dsdm.report.compute_curves import AT_BUDGET, compute_curves, compute_readings
from dsdm.report.figures import interval_plot
from dsdm.report.figures_compute import compute_plot
from dsdm.report.parts import ComparedTarget, Comparison, Figure
from dsdm.report.transfer import transfer_matrices
from dsdm.stages.making.compare import CANDIDATES
from dsdm.stages.run import compare_folder

MOST_SOURCES = 20


def comparisons(run_folder: Path, experiment: Experiment) -> Iterator[Comparison]:
    """The comparison on each part of the targets that has losses, and on held-out tasks."""
    targets = [target.name for target in experiment.targets]
    for measured in measured_parts(run_folder, experiment):
        yield Comparison(
            measured.part,
            list(_compared_targets(measured)),
            interval_note(measured.lines),
            transfer_matrices(measured.lines, targets, _mix_arms(experiment, measured.losses)),
        )


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


def _compared_targets(measured: MeasuredPart) -> Iterator[ComparedTarget]:
    part, found = measured.part, measured.multipliers
    flops = {arm: cost.flops for arm, cost in measured.training.items()}
    for number, name in enumerate(dict.fromkeys(line.target for line in measured.lines)):
        own = [line for line in measured.lines if line.target == name]
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


def _mix_arms(experiment: Experiment, losses: Losses) -> dict[str, str]:
    """The arm that selects for all targets at once, where it is not called by its method."""
    method = experiment.selecting_estimator
    return {method: "top"} if method not in losses and "top" in losses else {}
