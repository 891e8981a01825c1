"""The report of a run folder: reads what is finished there, and nothing outside it."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dsdm.artifacts import COST, Manifest, disk_errors, load_cost, load_manifest
from dsdm.errors import ArtifactError
from dsdm.evaluation.comparison import BASELINE, ComparedLoss, compare_losses
from dsdm.evaluation.figures import interval_plot
from dsdm.evaluation.report import (
    ComparedTarget,
    Comparison,
    Figure,
    Report,
    Selected,
    StageCost,
    TargetOverlap,
    render_report,
)
from dsdm.experiment import Experiment, load_experiment
from dsdm.pipeline import STAGES
from dsdm.pipeline.losses import load_losses
from dsdm.pipeline.report_scores import (
    ScoredPool,
    calibration_agreement,
    calibrations,
    load_scored_pool,
)
from dsdm.pipeline.summary import REPORT, interval_note

EXPERIMENT = "experiment.yaml"
COMPARING = ("models", "evaluations")
COUNTED = ("documents", "rows", "tokens", "duplicates", "rejected")


def write_run_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run folder, finished or not, and returns its path.

    Raises:
        ArtifactError: the folder is not a run's, or something in it is damaged.
    """
    if not (run_folder / EXPERIMENT).is_file():
        raise ArtifactError(
            f"{run_folder}: is no run folder, it has no {EXPERIMENT}. Give the `run` of an "
            "experiment that was run."
        )
    page = render_report(collect_report(run_folder))
    path = run_folder / REPORT
    draft = path.with_name(f".{REPORT}.draft")
    with disk_errors(path):
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, path)
    return path


def collect_report(run_folder: Path) -> Report:
    """What the finished artifacts of a run hold."""
    experiment = load_experiment(run_folder / EXPERIMENT, [])
    costs = list(stage_costs(run_folder))
    pool = load_scored_pool(run_folder, experiment)
    matrices = [
        *(pool.agreement() if pool else ()),
        *calibration_agreement(run_folder, experiment),
    ]
    return Report(
        title=run_folder.resolve().name,
        method=experiment.selecting_method,
        targets=[target.name for target in experiment.targets],
        config=(run_folder / EXPERIMENT).read_text(encoding="utf-8"),
        versions=_versions(run_folder),
        comparisons=list(_comparisons(run_folder, experiment)),
        agreements=[line for matrix in matrices for line in matrix.agreements()],
        matrices=matrices,
        calibrations=list(calibrations(run_folder, experiment)),
        min_correlation=experiment.scores.min_correlation,
        counts=_pool_counts(run_folder),
        rejections=_rejections(run_folder),
        overlaps=list(_overlaps(run_folder)),
        overlap_dropped=experiment.drop_overlap,
        costs=costs,
        cost_note=_cost_note(run_folder, costs),
        **_scored(pool),
    )


def stage_costs(run_folder: Path) -> Iterator[StageCost]:
    """What the finished artifacts of each stage took, in the stages' order."""
    for stage in STAGES:
        costs = [load_cost(path.parent) for path in _finished(run_folder / stage)]
        if costs:
            seconds = sum(cost["seconds"] for cost in costs)
            yield StageCost(stage, len(costs), seconds, sum(cost["flops"] for cost in costs))


def _scored(pool: ScoredPool | None) -> dict[str, Any]:
    """The parts of the report that need scores, by name."""
    if pool is None:
        return {}
    sources, num_other = pool.source_shares()
    return {
        "selected": _selected(pool),
        "sources": sources,
        "num_other_sources": num_other,
        "score_figures": pool.figures(),
        "length_correlation": pool.length_correlation(),
        "excerpts": pool.excerpts(),
    }


def _selected(pool: ScoredPool) -> Selected | None:
    if not pool.selected.any():
        return None
    return Selected(
        candidates=int(pool.selected.sum()),
        tokens=int(pool.num_tokens[pool.selected].sum()),
        pool_candidates=len(pool.selected),
        pool_tokens=int(pool.num_tokens.sum()),
    )


def _comparisons(run_folder: Path, experiment: Experiment) -> Iterator[Comparison]:
    compare = experiment.compare
    targets = [target.name for target in experiment.targets]
    for part in compare.parts if compare else ():
        assert compare is not None
        lines = compare_losses(load_losses(run_folder, part, compare, targets))
        if lines:
            yield Comparison(part, list(_compared_targets(part, lines)), interval_note(lines))


def _compared_targets(part: str, lines: Sequence[ComparedLoss]) -> Iterator[ComparedTarget]:
    for number, name in enumerate(dict.fromkeys(line.target for line in lines)):
        found = [line for line in lines if line.target == name]
        yield ComparedTarget(name, found, _interval_figure(f"{part}-{number}", found))


def _interval_figure(name: str, lines: Sequence[ComparedLoss]) -> Figure | None:
    found = [(line.arm, line.difference) for line in lines if line.difference is not None]
    if not found:
        return None
    arms, intervals = zip(*found, strict=True)
    return Figure(f"Loss minus that of {BASELINE}", interval_plot(name, arms, intervals))


def _pool_counts(run_folder: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for shard in _shards(run_folder):
        found = _manifest(shard).counts
        counts.update({name: found[name] for name in COUNTED})
    return {name: counts[name] for name in COUNTED}


def _rejections(run_folder: Path) -> dict[str, int]:
    """Rejected records by reason, the most frequent first."""
    reasons: Counter[str] = Counter()
    for shard in _shards(run_folder):
        with open(shard / "rejected.jsonl", encoding="utf-8") as file:
            reasons.update(json.loads(line)["reason"] for line in file)
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _overlaps(run_folder: Path) -> Iterator[TargetOverlap]:
    manifest = load_manifest(run_folder / "overlap")
    for target, found in (manifest.counts if manifest else {}).items():
        yield TargetOverlap(target, found["examples"], found["overlapping"], found["candidates"])


def _cost_note(run_folder: Path, costs: Sequence[StageCost]) -> str:
    selecting = [cost for cost in costs if cost.stage not in COMPARING]
    flops, seconds = sum(c.flops for c in selecting), sum(c.seconds for c in selecting)
    trainings = [load_cost(path.parent) for path in _finished(run_folder / "models")]
    note = f"Selecting took {seconds:,.1f} s and {flops:.2e} FLOPs".replace("e+", "e")
    if not trainings:
        return f"{note}, all stages of this table."
    share = flops / (sum(cost["flops"] for cost in trainings) / len(trainings))
    return (
        f"{note}, all stages but {' and '.join(COMPARING)}: {share:.2f} times the FLOPs of "
        "training one target model."
    )


def _versions(run_folder: Path) -> dict[str, str]:
    manifest = load_manifest(run_folder / "tokenizer")
    return manifest.versions if manifest else {}


def _shards(run_folder: Path) -> list[Path]:
    return [path.parent for path in _finished(run_folder / "examples")]


def _finished(stage: Path) -> list[Path]:
    """The cost files of a stage's finished artifacts; folders being written are hidden."""
    found = sorted(stage.rglob(COST))
    return [
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(stage).parts)
    ]


def _manifest(folder: Path) -> Manifest:
    manifest = load_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{folder}: has no manifest. Delete it and run again.")
    return manifest
