"""Selecting again from the scores of a finished run, with another budget or other rules."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dsdm.artifacts import check_contents, finished, load_manifest
from dsdm.config import as_dict
from dsdm.errors import ArtifactError, ConfigError
from dsdm.experiment import Experiment, load_experiment
from dsdm.graph import Artifact, Graph, fingerprints, make_missing
from dsdm.selection.rules import selected_share
from dsdm.stages import STAGES
from dsdm.stages.baselines import ranking_of
from dsdm.stages.later import experiment_of, later_table, require_scores
from dsdm.stages.run import run_of
from dsdm.stages.selection import MAKING


def reselect(tables: Sequence[Path], overrides: Sequence[tuple[str, str]], out: Path) -> str:
    """One line about the selection that was written to `out`.

    Args:
        tables: The folder of a run, or of its scores, and any that `dsdm score` wrote by it.
        overrides: Settings of the run to replace, such as ("selection.source_cap", "0.2"); a budget
            takes the place of the run's.
        out: Gets the folders `selection` and `dataset`.

    Raises:
        ArtifactError: there are no finished scores, they are not of one run, or `out` holds another
            selection.
        ConfigError: an override is no setting, or more is wanted than a screening has scored.
    """
    first, *others = [one.parent if one.name == "scores" else one for one in tables]
    experiment = _load(first, others, overrides)
    run = replace(run_of(experiment, reads_pool=False), packed=(first, *others))
    graph = Graph(run, STAGES)
    ranking = ranking_of(graph, run, experiment.selecting_estimator)
    require_scores(ranking, first)
    inputs = fingerprints([ranking])
    for folder in others:
        if ranking.stage == "baselines":
            raise ConfigError(
                f"{folder}: has the scores of estimators alone. Give --estimator one of "
                f"{', '.join(experiment.estimators)}, or the run alone."
            )
        inputs[f"scores of {folder.name}"] = later_table(folder, ranking).fingerprint
    needed = [one.path for one in (*graph["tokenizer"], *graph["examples"], *graph["overlap"])]
    needed += [ranking.path, *(one for folder in others for one in finished(folder))]
    for path in needed:
        check_contents(path)
    settings = {"selection": experiment.selection, "estimator": experiment.selecting_estimator}
    chosen = Artifact(
        "selection",
        out / "selection",
        settings,
        inputs,
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


def _load(
    run_folder: Path, others: Sequence[Path], overrides: Sequence[tuple[str, str]]
) -> Experiment:
    recorded, path = experiment_of(run_folder), run_folder / "experiment.yaml"
    # What was screened is decided, whatever another budget would have had screened.
    screening = recorded.screening(*_pool_sizes(recorded, [run_folder]))
    if screening is not None:
        unscreened = load_experiment(path, [*overrides, ("scores.screening", "null")])
        wanted = selected_share(unscreened.selection, *_pool_sizes(recorded, [run_folder, *others]))
        if wanted > screening.share:
            raise ConfigError(
                f"{run_folder}: {wanted:.1%} of the pool is wanted, and the best "
                f"{screening.share:.1%} were scored: the rest is predicted. Select less, or have "
                f"all scored with `dsdm run {path} --scores.screening null --redo scores`."
            )
    return load_experiment(path, [*overrides, ("scores.screening", json.dumps(as_dict(screening)))])


def _pool_sizes(experiment: Experiment, folders: Sequence[Path]) -> tuple[int, int]:
    """Candidates and tokens that are packed in some folders."""
    unit = "rows" if experiment.examples.unit == "row" else "documents"
    found = [manifest.counts for one in folders if (manifest := load_manifest(one / "duplicates"))]
    return sum(counts[unit] for counts in found), sum(counts["tokens"] for counts in found)
