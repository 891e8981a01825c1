"""Selecting again from the scores of a finished run, with another budget or other rules."""

import json
from collections.abc import Sequence
from pathlib import Path

from dsdm.artifacts import check_contents
from dsdm.config import as_dict
from dsdm.errors import ArtifactError, ConfigError
from dsdm.experiment import Experiment, load_experiment
from dsdm.graph import Artifact, Graph, fingerprints, make_missing
from dsdm.selection.rules import selected_share
from dsdm.stages import STAGES
from dsdm.stages.baselines import ranking_of
from dsdm.stages.run import run_of
from dsdm.stages.scores import pool_sizes
from dsdm.stages.selection import MAKING


def reselect(scores: Path, overrides: Sequence[tuple[str, str]], out: Path) -> str:
    """One line about the selection that was written to `out`.

    Args:
        scores: The scores folder of a run, RUN/scores.
        overrides: Settings of the run to replace, such as ("selection.source_cap", "0.2"); a budget
            takes the place of the run's.
        out: Gets the folders `selection` and `dataset`.

    Raises:
        ArtifactError: there are no finished scores, or `out` holds another selection.
        ConfigError: an override is no setting, or more is wanted than a screening has scored.
    """
    experiment = _load(scores, overrides)
    run = run_of(experiment, reads_pool=False)
    graph = Graph(run, STAGES)
    ranking = ranking_of(graph, run, experiment.selecting_estimator)
    for needed in (*graph["tokenizer"], *graph["examples"], *graph["overlap"], ranking):
        check_contents(needed.path)
    state, changes = ranking.state()
    if state != "done":
        reason = f"{state} ({'; '.join(changes)})" if changes else state
        raise ArtifactError(
            f"{ranking.path}: the run's scores are {reason}. Finish them with "
            f"`dsdm run {run.folder / 'experiment.yaml'} --until {ranking.stage}`."
        )
    settings = {"selection": experiment.selection, "estimator": experiment.selecting_estimator}
    chosen = Artifact(
        "selection",
        out / "selection",
        settings,
        fingerprints([ranking]),
        f"{MAKING}:write_selection",
        run,
        (experiment.selection,),
    )
    dataset = Artifact(
        "dataset",
        out / "dataset",
        experiment.export,
        fingerprints([chosen]),
        f"{MAKING}:write_dataset",
        run,
        (chosen.path,),
    )
    for artifact in (chosen, dataset):
        state, changes = artifact.state()
        if state == "stale":
            raise ArtifactError(
                f"{artifact.path}: was made with other settings: {'; '.join(changes)}. "
                "Give another --out, or delete it."
            )
        make_missing([artifact])
    counts = chosen.counts()
    share = counts["tokens"] / counts["pool_tokens"]
    return (
        f"{dataset.path}: {counts['candidates']:,} of {counts['pool_candidates']:,} candidates, "
        f"{counts['tokens']:,} tokens ({share:.1%} of the pool's)."
    )


def _load(scores: Path, overrides: Sequence[tuple[str, str]]) -> Experiment:
    folder = scores.parent
    path = folder / "experiment.yaml"
    if not path.exists():
        raise ArtifactError(
            f"{scores}: is not the scores folder of a run: there is no {path}. Give RUN/scores, "
            "where RUN is the `run` folder of an experiment."
        )
    recorded = load_experiment(path)
    if recorded.folder.resolve() != folder.resolve():
        raise ArtifactError(
            f"{path}: says that the run's folder is {recorded.run}, which from here is not "
            f"{folder}. Start `dsdm select` where `dsdm run` was started, since paths are relative "
            "to there; where the run was moved, correct `run` in that file."
        )
    # What was screened is decided, whatever another budget would have had screened.
    sizes = pool_sizes(Graph(run_of(recorded, reads_pool=False), STAGES))
    screening = recorded.screening(*sizes)
    if screening is not None:
        unscreened = load_experiment(path, [*overrides, ("scores.screening", "null")])
        wanted = selected_share(unscreened.selection, *sizes)
        if wanted > screening.share:
            raise ConfigError(
                f"{scores}: {wanted:.1%} of the pool is wanted, and the best {screening.share:.1%} "
                "were scored: the rest is predicted. Select less, or have all scored with "
                f"`dsdm run {path} --scores.screening null --redo scores`."
            )
    return load_experiment(path, [*overrides, ("scores.screening", json.dumps(as_dict(screening)))])
