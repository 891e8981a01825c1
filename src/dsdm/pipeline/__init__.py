"""Every stage of a run, in order, and what may be asked of them."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsdm.artifacts import State, disk_errors
from dsdm.errors import ConfigError
from dsdm.experiment import Experiment, save_experiment
from dsdm.pipeline import compare_stages, data_stages, model_stages, select_stages
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, perform

STAGES: dict[str, tuple[Callable[[Run], Iterator[Work]], ...]] = {
    "tokenizer": (data_stages.tokenizer_work,),
    "examples": (data_stages.examples_work,),
    "targets": (data_stages.targets_work,),
    "overlap": (data_stages.overlap_work,),
    "proxies": (model_stages.proxies_work,),
    "directions": (model_stages.directions_work,),
    "scores": (model_stages.scores_work, select_stages.merged_scores_work),
    "selection": (select_stages.selection_work,),
    "dataset": (select_stages.dataset_work,),
    "models": (compare_stages.models_work,),
    "evaluations": (compare_stages.evaluations_work,),
}


@dataclass(frozen=True)
class Status:
    """Where one artifact stands."""

    work: Work
    state: State
    changes: list[str]


def run_experiment(
    experiment: Experiment,
    *,
    until: str | None = None,
    announce: Callable[[str, int, int], None] = lambda stage, made, total: None,
) -> Run:
    """Every stage that is missing, in order, up to and with `until`.

    Args:
        experiment: What to run.
        until: The last stage; None: all of them.
        announce: Called after each stage with its name, the artifacts made now, and all of them.

    Raises:
        DsdmError: as the stages do; what was finished is kept.
    """
    _check_stage(until)
    run = Run(experiment)
    with disk_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
    run.remember_pool()
    described = run.folder / "experiment.yaml"
    if not described.exists():
        save_experiment(experiment, described)
    for stage, makers in STAGES.items():
        works = [work for make in makers for work in make(run)]
        announce(stage, sum(perform(work) for work in works), len(works))
        if stage == "tokenizer":
            model_stages.check_models(run)
        if stage == until:
            break
    # Last, so that a run that was refused is still described by the experiment that made it.
    save_experiment(experiment, described)
    return run


def run_status(experiment: Experiment) -> Iterator[Status]:
    """Every artifact of the run, in order: done, missing, or stale and why."""
    run = Run(experiment)
    for makers in STAGES.values():
        for make in makers:
            for work in make(run):
                yield Status(work, *work.state())


def redo(experiment: Experiment, stage: str) -> None:
    """Deletes what a stage has made, and what later stages made of it, to be made again.

    What later stages have made stays where it is still right.
    """
    _check_stage(stage)
    with disk_errors(experiment.folder):
        shutil.rmtree(experiment.folder / stage, ignore_errors=True)
        later = list(STAGES)[list(STAGES).index(stage) + 1 :]
        for status in run_status(experiment):
            if status.state == "stale" and status.work.stage in later:
                shutil.rmtree(status.work.path, ignore_errors=True)


def _check_stage(stage: str | None) -> None:
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"{stage!r} is not a stage. Stages are {', '.join(STAGES)}.")


__all__ = ["STAGES", "Run", "Status", "redo", "run_experiment", "run_status"]
