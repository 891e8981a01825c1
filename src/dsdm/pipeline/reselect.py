"""Selecting again from the scores of a finished run, with another budget or other rules."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsdm.artifacts import check_contents
from dsdm.config import as_dict
from dsdm.errors import ArtifactError, ConfigError
from dsdm.experiment import Experiment, load_recorded
from dsdm.pipeline.data_stages import examples_work, overlap_work, tokenizer_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.score_stages import first_sizes
from dsdm.pipeline.select_stages import merged_scores_work, reselect_work
from dsdm.pipeline.work import finished_counts, perform
from dsdm.selection.rules import selected_share

BUDGETS = ("tokens", "candidates", "fraction")


def reselect(
    scores: Path, budget: Mapping[str, int | float], overrides: Sequence[tuple[str, str]], out: Path
) -> str:
    """One line about the selection that was written to `out`.

    Args:
        scores: The scores folder of a run, RUN/scores.
        budget: The new budget: `tokens`, `candidates` or `fraction`.
        overrides: Settings of the run's `selection` to replace, such as ("source_cap", "0.2").
        out: Gets the folders `selection` and `dataset`.

    Raises:
        ArtifactError: there are no finished scores, or `out` holds another selection.
        ConfigError: an override is not a setting of `selection`, or more is wanted than a screening
            has scored.
    """
    experiment = _load(scores, budget, overrides)
    run = Run(experiment)
    _require_scores(run)
    chosen, dataset = reselect_work(run, experiment.selection, out)
    for work in (chosen, dataset):
        state, changes = work.state()
        if state == "stale":
            raise ArtifactError(
                f"{work.path}: was made with other settings: {'; '.join(changes)}. "
                "Give another --out, or delete it."
            )
        perform(work)
    return _summary(finished_counts(chosen), dataset.path)


def _load(
    scores: Path, budget: Mapping[str, int | float], overrides: Sequence[tuple[str, str]]
) -> Experiment:
    folder = scores.parent
    path = folder / "experiment.yaml"
    if not path.exists():
        raise ArtifactError(
            f"{scores}: is not the scores folder of a run: there is no {path}. Give RUN/scores, "
            "where RUN is the `run` folder of an experiment."
        )
    recorded = load_recorded(path)
    if recorded.folder.resolve() != folder.resolve():
        raise ArtifactError(
            f"{path}: says that the run's folder is {recorded.run}, which from here is not "
            f"{folder}. Start `dsdm select` where `dsdm run` was started, since paths are relative "
            "to there; where the run was moved, correct `run` in that file."
        )
    replaced = [(f"selection.{name}", "null") for name in BUDGETS]
    replaced += [(f"selection.{name}", str(value)) for name, value in budget.items()]
    replaced += [(f"selection.{name.removeprefix('selection.')}", v) for name, v in overrides]
    # What was screened is decided, whatever another budget would have had screened.
    sizes = first_sizes(Run(recorded))
    screening = recorded.screening(*sizes)
    if screening is not None:
        unscreened = load_recorded(path, [*replaced, ("scores.screening", "null")])
        wanted = selected_share(unscreened.selection, *sizes)
        if wanted > screening.share:
            raise ConfigError(
                f"{scores}: {wanted:.1%} of the pool is wanted, and the best {screening.share:.1%} "
                "were scored: the rest is predicted. Select less, or have all scored with "
                f"`dsdm run {path} --scores.screening null --redo scores`."
            )
    return load_recorded(path, [*replaced, ("scores.screening", json.dumps(as_dict(screening)))])


def _require_scores(run: Run) -> None:
    (merged,) = merged_scores_work(run)
    for work in (*tokenizer_work(run), *examples_work(run), *overlap_work(run), merged):
        check_contents(work.path)
    state, changes = merged.state()
    if state != "done":
        reason = f"{state} ({'; '.join(changes)})" if changes else state
        raise ArtifactError(
            f"{merged.path}: the run's scores are {reason}. Finish them with "
            f"`dsdm run {run.folder / 'experiment.yaml'} --until scores`."
        )


def _summary(counts: Mapping[str, int | float], dataset: Path) -> str:
    share = counts["tokens"] / counts["pool_tokens"]
    return (
        f"{dataset}: {counts['candidates']:,} of {counts['pool_candidates']:,} candidates, "
        f"{counts['tokens']:,} tokens ({share:.1%} of the pool's)."
    )
