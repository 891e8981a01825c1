"""The report of a run folder: reads what is finished there, and nothing outside it."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dsdm.artifacts import (
    COST,
    Manifest,
    disk_errors,
    load_cost,
    load_manifest,
    write_whole,
)
from dsdm.errors import ArtifactError
from dsdm.experiment import Experiment, load_experiment
from dsdm.pipeline.report_compared import chosen_parts, comparisons
from dsdm.pipeline.report_examples import examples_browser
from dsdm.pipeline.report_scores import (
    ScoredPool,
    calibration_agreement,
    calibrations,
    load_scored_pool,
)
from dsdm.pipeline.screened import screened_selection
from dsdm.pipeline.summary import REPORT
from dsdm.report.compute_curves import AT_BUDGET
from dsdm.report.data import plain_data
from dsdm.report.parts import Selected, StageCost, TargetOverlap
from dsdm.report.render import Report, render_report
from dsdm.stages import STAGES
from dsdm.stages.run import compare_folder

FIGURES = "figures.json"
EXPERIMENT = "experiment.yaml"
IN_COMPARISON = ("tuning", "models", "evaluations")
"""Stages whose folders are within the comparison's."""
COMPARING = ("baselines", "heldout", *IN_COMPARISON)
"""Stages that selecting does not need."""
COUNTED = ("documents", "rows", "tokens", "duplicates", "rejected")


def write_run_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run folder, finished or not, and returns its path.

    Beside it `figures.json`: every figure and table of the page as plain data, named as the fields
    of `Report` are.

    Raises:
        ArtifactError: the folder is not a run's, or something in it is damaged.
    """
    if not (run_folder / EXPERIMENT).is_file():
        raise ArtifactError(
            f"{run_folder}: is no run folder, it has no {EXPERIMENT}. Give the `run` of an "
            "experiment that was run."
        )
    report = collect_report(run_folder)
    data = json.dumps(plain_data(report), indent=1, ensure_ascii=False, allow_nan=False)
    _write(run_folder / FIGURES, data + "\n")
    return _write(run_folder / REPORT, render_report(report))


def collect_report(run_folder: Path) -> Report:
    """What the finished artifacts of a run hold."""
    experiment = load_experiment(run_folder / EXPERIMENT)
    costs = list(stage_costs(run_folder, experiment))
    pool = load_scored_pool(run_folder, experiment)
    screened = screened_selection(run_folder, experiment)
    matrices = [
        *(pool.agreement() if pool else ()),
        *calibration_agreement(run_folder, experiment),
    ]
    return Report(
        title=run_folder.resolve().name,
        method=experiment.selecting_estimator,
        targets=[target.name for target in experiment.targets],
        config=(run_folder / EXPERIMENT).read_text(encoding="utf-8"),
        versions=_versions(run_folder),
        comparisons=list(comparisons(run_folder, experiment)),
        agreements=[line for matrix in matrices for line in matrix.agreements()],
        matrices=matrices,
        calibrations=list(calibrations(run_folder, experiment)),
        min_correlation=experiment.scores.min_correlation,
        screened=screened.text if screened else "",
        counts=_pool_counts(run_folder),
        rejections=_rejections(run_folder),
        overlaps=list(_overlaps(run_folder)),
        overlap_dropped=experiment.drop_overlap,
        costs=costs,
        cost_note=_cost_note(costs),
        **(_scored(pool) | chosen_parts(run_folder, experiment, pool) if pool else {}),
    )


def stage_costs(run_folder: Path, experiment: Experiment) -> Iterator[StageCost]:
    """What the finished artifacts of each stage took, in the stages' order."""
    compare = experiment.compare
    compared = compare_folder(run_folder, compare) if compare else run_folder
    training = _training_flops(compared)
    for stage in STAGES:
        folder = compared if stage in IN_COMPARISON else run_folder
        costs = [load_cost(path.parent) for path in _finished(folder / stage)]
        if costs:
            seconds, flops = (
                sum(getattr(one, name) / one.made_with for one in costs)
                for name in ("seconds", "flops")
            )
            yield StageCost(stage, len(costs), seconds, flops, flops / training)


def _training_flops(compared: Path) -> float:
    """Of one target model at the usual budget, the mean; NaN without any."""
    models = [path.parent for path in _finished(compared / "models")]
    found = [load_cost(model).flops for model in models if AT_BUDGET not in model.name]
    return sum(found) / len(found) if sum(found) else math.nan


def _scored(pool: ScoredPool) -> dict[str, Any]:
    """The parts of the report that need scores, by name."""
    sources, num_other = pool.source_shares()
    return {
        "selected": _selected(pool),
        "sources": sources,
        "num_other_sources": num_other,
        "score_figures": pool.figures(),
        "length_correlation": pool.length_correlation(),
        "completion_correlation": pool.completion_correlation(),
        "examples": examples_browser(pool),
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


def _cost_note(costs: Sequence[StageCost]) -> str:
    selecting = [cost for cost in costs if cost.stage not in COMPARING]
    flops, seconds = sum(c.flops for c in selecting), sum(c.seconds for c in selecting)
    note = f"Selecting took {seconds:,.1f} s and {flops:.2e} FLOPs".replace("e+", "e")
    trainings = sum(cost.trainings for cost in selecting)
    if math.isnan(trainings):
        return f"{note}, all stages of this table."
    others = ", ".join(cost.stage for cost in costs if cost.stage in COMPARING)
    return (
        f"{note}, all stages but {others}: {trainings:.2f} times the FLOPs of training one target "
        "model."
    )


def _write(path: Path, text: str) -> Path:
    """Whole or not at all."""
    with disk_errors(path):
        write_whole(path, text.encode())
    return path


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
