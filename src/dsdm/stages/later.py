"""Scoring files that came after a run, by what the run has learned."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from dsdm.artifacts import Manifest, load_manifest
from dsdm.errors import ArtifactError
from dsdm.execute import LOCAL, Workers, executor
from dsdm.experiment import Experiment, load_experiment
from dsdm.graph import Artifact, Graph
from dsdm.lock import alone_in
from dsdm.stages import STAGES, Announce, make_stages
from dsdm.stages.run import Run, run_of
from dsdm.stages.scores import MERGED, merged_of, scores
from dsdm.stages.topics import sorted_pieces

LEARNED = ("tokenizer", "targets", "proxies", "directions", "screening")
"""Stages of the run that the files are scored by."""
OWN = ("examples", "duplicates", "overlap", "topics", "scores")
"""Stages that are made of the files."""
SCORES_OF_THE_RUN = "scores of the run"
"""The input of a later table that says by which run's scores it was made."""


def score_later(
    run_folder: Path,
    files: Sequence[str],
    out: Path,
    *,
    workers: Workers = LOCAL,
    announce: Announce = lambda stage, made, total: None,
) -> Path:
    """The table of scores of files that are not in a finished run's pool.

    The files are rejected, deduplicated (against the run's documents too) and searched for the
    targets' words as the run's own, and scored by its directions, spreads and group means.

    Args:
        run_folder: The run.
        files: Patterns, as in `pool.files`.
        out: Gets the folders `examples`, `duplicates`, `overlap`, `topics` and `scores`.
        workers: Who makes the artifacts.
        announce: As for `run_experiment`.

    Raises:
        ArtifactError: the run has no finished scores, or `out` is a run's own folder.
        DsdmError: as the stages do; what was finished is kept.
    """
    experiment = experiment_of(run_folder)
    if out.resolve() == experiment.folder.resolve():
        raise ArtifactError(f"{out}: is the run's own folder. Give another --out.")
    base = Graph(run_of(experiment, reads_pool=False), STAGES)
    table = merged_of(base, base.run)
    require_scores(table, run_folder)
    pool = msgspec.structs.replace(experiment.pool, files=list(files))
    own: Experiment = msgspec.structs.replace(experiment, run=str(out), pool=pool, compare=None)
    stages = STAGES | {"scores": partial(scores, means={SCORES_OF_THE_RUN: table.fingerprint})}
    stages["topics"] = partial(_topics, base["topics"])
    later = Run(own, experiment.folder, (out,), experiment.folder)
    graph = Graph(later, stages, {name: base[name] for name in LEARNED})
    with alone_in(out), executor(workers) as submit:
        make_stages(graph, OWN, submit, announce)
    return merged_of(graph, later).path


def _topics(groups: Sequence[Artifact], graph: Graph) -> Iterator[Artifact]:
    if groups:
        yield from sorted_pieces(graph, groups[0])


def experiment_of(run_folder: Path) -> Experiment:
    """The experiment of a run.

    Raises:
        ArtifactError: the folder is not a run's, or the run was begun in another place.
    """
    path = run_folder / "experiment.yaml"
    if not path.exists():
        raise ArtifactError(
            f"{run_folder}: is not the folder of a run: there is no {path}. Give the `run` folder "
            "of an experiment."
        )
    experiment = load_experiment(path)
    if experiment.folder.resolve() != run_folder.resolve():
        raise ArtifactError(
            f"{path}: says that the run's folder is {experiment.run}, which from here is not "
            f"{run_folder}. Start dsdm where `dsdm run` was started, since paths are relative "
            "to there; where the run was moved, correct `run` in that file."
        )
    return experiment


def require_scores(table: Artifact, run_folder: Path) -> None:
    """Raises ArtifactError where a run's scores are not finished."""
    state, changes = table.state()
    if state != "done":
        reason = f"{state} ({'; '.join(changes)})" if changes else state
        raise ArtifactError(
            f"{table.path}: the run's scores are {reason}. Finish them with "
            f"`dsdm run {run_folder / 'experiment.yaml'} --until {table.stage}`."
        )


def later_table(folder: Path, table: Artifact) -> Manifest:
    """The manifest of a table that `score_later` wrote to a folder, by the run that has `table`.

    Raises:
        ArtifactError: there is none, or another run or other directions made it.
    """
    manifest = load_manifest(folder / "scores" / MERGED)
    if manifest is None:
        raise ArtifactError(
            f"{folder}: holds no finished scores. Make them with `dsdm score RUN FILES --out "
            f"{folder}`."
        )
    if manifest.inputs.get(SCORES_OF_THE_RUN) != table.fingerprint:
        raise ArtifactError(
            f"{folder}: was not scored by {table.path.parents[1]} as it is now, so the scores "
            "can't be compared. Score its files again."
        )
    return manifest
