"""Every stage of a run, in order, and what may be asked of them."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dsdm.artifacts import State, disk_errors
from dsdm.errors import ConfigError
from dsdm.experiment import Experiment, record_experiment, save_experiment
from dsdm.pipeline import (
    baseline_stages,
    compare_stages,
    data_stages,
    evaluation_stages,
    model_stages,
    score_stages,
    select_stages,
    share_stages,
    topic_stages,
)
from dsdm.pipeline.lock import alone_in
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work
from dsdm.pipeline.workers import HERE, Maker, Workers
from dsdm.pipeline.workers import workers as start_workers

Announce = Callable[[str, int, int], None]
"""Called after each stage with its name, the artifacts made now, and all of them."""


def _works_of_replicates(maker: Maker, run: Run) -> Iterator[Work]:
    for replicate in run.replicates:
        yield from maker(replicate)


def _renewed(maker: Maker) -> Maker:
    """The same works for the run and each of its replicates."""
    return partial(_works_of_replicates, maker)


STAGES: dict[str, tuple[Maker, ...]] = {
    "tokenizer": (data_stages.tokenizer_work,),
    "examples": (data_stages.examples_work,),
    "targets": (data_stages.targets_work,),
    "overlap": (data_stages.overlap_work,),
    "topics": (topic_stages.groups_work, topic_stages.topics_work),
    "proxies": (_renewed(model_stages.proxies_work),),
    "directions": (_renewed(model_stages.directions_work),),
    "screening": (_renewed(score_stages.screening_work),),
    "scores": (_renewed(score_stages.scores_work), _renewed(select_stages.merged_scores_work)),
    "selection": (select_stages.selection_work,),
    "dataset": (select_stages.dataset_work,),
    "baselines": (_renewed(baseline_stages.baselines_work),),
    "heldout": (evaluation_stages.heldout_work,),
    "tuning": (compare_stages.tuning_work,),
    "models": (compare_stages.models_work,),
    "evaluations": (evaluation_stages.evaluations_work,),
    "shared": (share_stages.shared_work,),
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
    workers: Workers = HERE,
    announce: Announce = lambda stage, made, total: None,
) -> Run:
    """Every stage that is missing, in order, up to and with `until`.

    Args:
        experiment: What to run.
        until: The last stage; None: all of them.
        workers: Who makes a stage's artifacts.
        announce: Called after each stage with its name, the artifacts made now, and all of them.

    Raises:
        DsdmError: as the stages do; what was finished is kept.
    """
    check_stage(until)
    run = Run(experiment)
    with alone_in(run.folder):
        make_stages(run, until, workers, announce)
    return run


def make_stages(run: Run, until: str | None, workers: Workers, announce: Announce) -> None:
    """`run_experiment` for who is `alone_in` the run's folder."""
    experiment = run.experiment
    run.remember_pool()
    described = run.folder / "experiment.yaml"
    if not described.exists():
        with disk_errors(described):
            save_experiment(experiment, described)
    with start_workers(experiment, workers) as perform:
        for stage, makers in STAGES.items():
            made = total = 0
            for maker in makers:
                works = list(maker(run))
                made, total = made + perform(maker, works), total + len(works)
            announce(stage, made, total)
            if stage == "tokenizer" and _has_models_to_train(run):
                model_stages.check_models(run)
                baseline_stages.check_baselines(run)
            if stage == until:
                break
    # Last, so that a run that was refused is still described by the experiment that made it.
    with disk_errors(described):
        record_experiment(experiment, described)


def _has_models_to_train(run: Run) -> bool:
    makers = [*STAGES["proxies"], *STAGES["models"]]
    return any(work.state()[0] != "done" for make in makers for work in make(run))


def run_status(experiment: Experiment) -> Iterator[Status]:
    """Every artifact of the run, in order: done, missing, or stale and why."""
    run = Run(experiment, reads_pool=False)
    for makers in STAGES.values():
        for make in makers:
            for work in make(run):
                yield Status(work, *work.state())


def redo(experiment: Experiment, stage: str) -> None:
    """Deletes what a stage has made, and what later stages made of it, to be made again.

    What later stages have made stays where it is still right.
    """
    check_stage(stage)
    run = Run(experiment)
    with alone_in(run.folder), disk_errors(run.folder):
        folders = [replicate.folder for replicate in run.replicates]
        for folder in [*folders, *([run.compare_folder] if experiment.compare else [])]:
            shutil.rmtree(folder / stage, ignore_errors=True)
        later = list(STAGES)[list(STAGES).index(stage) + 1 :]
        for status in run_status(experiment):
            if status.state == "stale" and status.work.stage in later:
                shutil.rmtree(status.work.path, ignore_errors=True)


def check_stage(stage: str | None) -> None:
    """Raises ConfigError where there is no such stage; None is no stage."""
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"{stage!r} is not a stage. Stages are {', '.join(STAGES)}.")


__all__ = [
    "STAGES",
    "Announce",
    "Run",
    "Status",
    "Workers",
    "check_stage",
    "make_stages",
    "redo",
    "run_experiment",
    "run_status",
]
