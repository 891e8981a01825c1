"""Every stage of a run, in order, and what may be asked of them.

A module here says which artifacts a stage has, and imports nothing heavy; the module of the same
name in `making` makes them.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from dsdm.artifacts import State, disk_errors, load_manifest
from dsdm.errors import ArtifactError, ConfigError, NumericalError
from dsdm.execute import LOCAL, Submit, Workers, executor, make_here, make_stage
from dsdm.experiment import Experiment, record_experiment, save_experiment
from dsdm.graph import Artifact, Graph, StageLister
from dsdm.lock import alone_in
from dsdm.stages.baselines import baselines
from dsdm.stages.check import check, failure
from dsdm.stages.compare import evaluations, heldout, models, tuning
from dsdm.stages.data import duplicates, examples, overlap, targets, tokenizer
from dsdm.stages.models import directions, proxies
from dsdm.stages.pool import freeze_pool, require_unchanged
from dsdm.stages.run import Run, run_of
from dsdm.stages.scores import scores, screening
from dsdm.stages.selection import dataset, selection, shared
from dsdm.stages.topics import topics

STAGES: dict[str, StageLister] = {
    "tokenizer": tokenizer,
    "examples": examples,
    "duplicates": duplicates,
    "targets": targets,
    "overlap": overlap,
    "topics": topics,
    "proxies": proxies,
    "directions": directions,
    "check": check,
    "screening": screening,
    "scores": scores,
    "baselines": baselines,
    "selection": selection,
    "dataset": dataset,
    "heldout": heldout,
    "tuning": tuning,
    "models": models,
    "evaluations": evaluations,
    "shared": shared,
}
ON_REQUEST = "check"
"""The stage that is only made where it is asked for by name."""

Announce = Callable[[str, int, int], None]
"""Called after each stage with its name, the artifacts made now, and all of them."""


@dataclass(frozen=True)
class Status:
    """Where one artifact stands."""

    artifact: Artifact
    state: State
    changes: list[str]


def run_experiment(
    experiment: Experiment,
    *,
    until: str | None = None,
    workers: Workers = LOCAL,
    announce: Announce = lambda stage, made, total: None,
) -> Run:
    """Every stage that is missing, in order, up to and with `until`.

    Args:
        experiment: What to run.
        until: The last stage; None: all of them but the check.
        workers: Who makes a stage's artifacts.
        announce: Called after each stage with its name, the artifacts made now, and all of them.

    Raises:
        DsdmError: as the stages do; what was finished is kept.
    """
    if until == ON_REQUEST:
        _require_slopes(experiment)
    graph = Graph(run_of(experiment), STAGES)
    stages = [stage for stage in graph.until(until) if stage != ON_REQUEST or until == ON_REQUEST]
    with alone_in(experiment.folder), executor(workers) as submit:
        make_stages(graph, stages, submit, announce)
    run: Run = graph.run
    return run


def run_check(
    experiment: Experiment,
    *,
    workers: Workers = LOCAL,
    announce: Announce = lambda stage, made, total: None,
) -> Run:
    """Makes what a check needs of the selecting estimator alone, and the check.

    Proxies or directions that can't be used are a verdict, not an error.

    Raises:
        DsdmError: as the stages do; what was finished is kept.
    """
    _require_slopes(experiment)
    estimator = experiment.selecting_estimator
    directions = msgspec.structs.replace(experiment.directions, estimators=(estimator,))
    alone: Experiment = msgspec.structs.replace(experiment, directions=directions, compare=None)
    graph = Graph(run_of(alone), STAGES)
    run: Run = graph.run
    with alone_in(experiment.folder), executor(workers) as submit:
        try:
            make_stages(graph, graph.until("check"), submit, announce, described=experiment)
        except NumericalError as error:
            make_here("check", [[failure(run, str(error))]])
    return run


def run_status(experiment: Experiment) -> Iterator[Status]:
    """Every artifact of the run, in order: done, missing, or stale and why.

    The check's are among them once one of them was made.
    """
    graph = Graph(run_of(experiment, reads_pool=False), STAGES)
    has_check = (experiment.folder / ON_REQUEST).is_dir()
    for stage in STAGES:
        if stage != ON_REQUEST or has_check:
            for artifact in graph[stage]:
                yield Status(artifact, *artifact.state())


def redo(experiment: Experiment, stage: str) -> None:
    """Deletes what a stage has made, and what later stages made of it, to be made again.

    What later stages have made stays where it is still right.

    Raises:
        ConfigError: there is no such stage.
    """
    run = run_of(experiment)
    names = list(STAGES)
    later = names[len(Graph(run, STAGES).until(stage)) :]
    with alone_in(run.folder), disk_errors(run.folder):
        folders = {run.folder, *(replicate.folder for replicate in run.replicates)}
        if experiment.compare is not None:
            folders.add(run.compare_folder)
        for folder in folders:
            shutil.rmtree(folder / stage, ignore_errors=True)
        graph = Graph(run_of(experiment), STAGES)
        for name in later:
            for artifact in graph[name]:
                if artifact.state()[0] == "stale":
                    shutil.rmtree(artifact.path, ignore_errors=True)


def check_stage(stage: str | None) -> None:
    """Raises ConfigError where there is no such stage; None is no stage."""
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"{stage!r} is not a stage. Stages are {', '.join(STAGES)}.")


def _require_slopes(experiment: Experiment) -> None:
    """Raises ConfigError where a check has nothing to look at."""
    estimator = experiment.selecting_estimator
    if estimator not in experiment.estimators:
        raise ConfigError(
            f"dsdm check can't look at `{estimator}`: its scores are no slopes along a direction. "
            "Set `estimator` to one of directions.estimators."
        )


def make_stages(
    graph: Graph,
    stages: Sequence[str],
    submit: Submit,
    announce: Announce,
    described: Experiment | None = None,
) -> None:
    """Makes stages in order; `described` is what the run's folder says it was made with."""
    run: Run = graph.run
    described = described or run.experiment
    require_unchanged(run.pool, run.folder)
    _require_files(graph, stages)
    freeze_pool(run.pool, run.packed[0])
    path = run.folder / "experiment.yaml"
    with disk_errors(path):
        if not path.exists():
            save_experiment(described, path)
    for stage in stages:
        made = make_stage(submit, graph[stage])
        announce(stage, made, len(graph[stage]))
        if stage == "tokenizer" and _has_models_to_train(graph):
            from dsdm.stages.making.compare import check_baselines
            from dsdm.stages.making.models import check_models

            check_models(run)
            check_baselines(run)
    # Last, so that a run that was refused is still described by the experiment that made it.
    with disk_errors(path):
        record_experiment(described, path)


def _require_files(graph: Graph, stages: Sequence[str]) -> None:
    """Raises ArtifactError where a pool file is gone that is still to be packed or exported."""
    run: Run = graph.run
    if not run.pool.gone:
        return
    experiment = run.experiment
    exports_documents = (
        "dataset" in stages
        and experiment.examples.unit == "document"
        and experiment.export.format in ("parquet", "jsonl")
        and load_manifest(run.folder / "dataset") is None
    )
    if exports_documents or any(one.state()[0] != "done" for one in graph["examples"]):
        raise ArtifactError(
            f"{run.pool.gone[0]}: is part of the pool that this run began with, is still needed, "
            "and is gone. Put it back, or start over with --redo examples."
        )


def _has_models_to_train(graph: Graph) -> bool:
    run: Run = graph.run
    if any(proxy.state()[0] != "done" for proxy in Graph(run, STAGES)["proxies"]):
        return True
    return run.experiment.compare is not None and not (run.compare_folder / "models").is_dir()


__all__ = [
    "LOCAL",
    "STAGES",
    "Announce",
    "Run",
    "Status",
    "Workers",
    "check_stage",
    "make_stages",
    "redo",
    "run_check",
    "run_experiment",
    "run_of",
    "run_status",
]
