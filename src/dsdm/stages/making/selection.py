"""Chooses candidates by their scores, writes the dataset, and copies finished parts to a store."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import Draft, load_manifest
from dsdm.config import as_dict
from dsdm.data.export import export_dataset
from dsdm.data.near_duplicates import NearDuplicates
from dsdm.data.stores import upload_folder
from dsdm.progress import progress
from dsdm.selection import Scores, SelectionConfig, select
from dsdm.selection.score_files import read_scores, write_chosen
from dsdm.selection.streaming import Chosen, is_plain, select_streaming
from dsdm.stages.making.scores import combination_of, merged_table, shrinkage_of_run
from dsdm.stages.run import Run
from dsdm.stages.scores_table import PROVENANCE, load_scores, shrunk_at_levels

SELECTION = "selection.parquet"


def run_scores(run: Run, estimator: str) -> Scores:
    """The scores of one estimator over the whole pool; dropped candidates are last."""
    path = merged_table(run)
    manifest = load_manifest(path.parent)
    scores = load_scores(path, estimator, manifest.fingerprint if manifest else "")
    if not len(run.dropped):
        return scores
    values = scores.values.copy()
    values[run.dropped] = values.min() - 1
    return dataclasses.replace(scores, values=values)


def target_scores(run: Run, estimator: str, target: str) -> Scores:
    """The scores of one estimator for one target alone, of all its checkpoints."""
    path = merged_table(run)
    names = [f"{estimator}.{i}.{target}" for i in range(run.experiment.proxies.num_checkpoints)]
    columns = {name: load_scores(path, name, "") for name in names}
    if run.experiment.scores.group_means_from == "all":
        values = combination_of(run).mean(
            estimator, target, {name: column.values for name, column in columns.items()}
        )
    else:
        shrinkage = shrinkage_of_run(run)
        assert shrinkage is not None, "an experiment with levels shrinks its scores"
        folder = run.folder / "scores" / estimator
        shards = [folder / shard.folder for shard in run.pool.shards]
        values = shrunk_at_levels(shards, estimator, target, shrinkage)
    first = columns[names[0]]
    return dataclasses.replace(first, values=values, method=estimator, target=target)


def selected_candidates(folder: Path) -> np.ndarray:
    """The sorted candidates in a finished selection."""
    table = pq.read_table(folder / SELECTION, columns=["candidate"])
    return np.asarray(table["candidate"].to_numpy())


def refusal(
    run: Run, config: SelectionConfig, *, near_duplicates: bool = True, also: Iterable[int] = ()
) -> Callable[[int], bool] | None:
    """Says of a candidate that is about to be taken whether it must not be; None: all may be.

    Dropped candidates and those in `also` are refused whatever ranks them; near-duplicates of one
    taken before, where the selection asks for it and `near_duplicates` is left on.
    """
    dropped = frozenset(run.dropped.tolist()) | frozenset(int(candidate) for candidate in also)
    if config.near_duplicates is None and not dropped:
        return None
    if config.near_duplicates is None or not near_duplicates:
        return dropped.__contains__
    examples, tokenizer = run.examples, run.tokenizer
    guard = NearDuplicates(lambda one: examples.text_of(one, tokenizer), config.near_duplicates)
    return lambda candidate: candidate in dropped or guard.is_duplicate(candidate)


def choose(run: Run, draft: Draft, config: SelectionConfig) -> None:
    """Writes the candidates that are kept, with their scores."""
    path, estimator = merged_table(run), run.experiment.selecting_estimator
    if is_plain(config):
        read = read_scores(path, estimator)
        chosen = select_streaming(read, config, method=estimator, refused=run.dropped)
    else:
        scores = run_scores(run, estimator)
        chosen = Chosen.of(select(scores, config, is_refused=refusal(run, config)), scores)
    write_chosen(path, PROVENANCE, estimator, chosen.is_chosen, draft.path / SELECTION)
    draft.counts.update(
        candidates=int(chosen.is_chosen.sum()),
        tokens=chosen.num_tokens,
        pool_candidates=len(chosen.is_chosen),
        pool_tokens=chosen.pool_tokens,
    )


def write_dataset(run: Run, draft: Draft, selection: Path) -> None:
    """Writes the chosen documents or rows in the format that was asked for."""
    chosen = pq.read_table(selection / SELECTION, columns=["candidate", "score"])
    export_dataset(
        run.examples,
        chosen["candidate"].to_numpy(),
        chosen["score"].to_numpy(),
        [shard.file for shard in run.pool.shards],
        run.experiment.pool,
        run.tokenizer,
        run.experiment.export,
        draft,
    )
    draft.counts["experiment"] = as_dict(run.experiment)


def upload(run: Run, draft: Draft, folders: Sequence[Path]) -> None:
    """Copies finished folders to the object store."""
    to = run.experiment.share.to
    assert to is not None
    draft.counts["files"] = 0
    with progress(f"shared/{draft.target.name}", None, "bytes") as advance:
        for folder in folders:
            name = folder.relative_to(run.folder).as_posix()
            draft.counts["files"] += upload_folder(folder, f"{to.rstrip('/')}/{name}", advance)
