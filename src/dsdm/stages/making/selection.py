"""Chooses candidates by their scores, writes the dataset, and copies finished parts to a store."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import Draft, load_manifest
from dsdm.baselines import BASELINES
from dsdm.config import as_dict
from dsdm.data.export import export
from dsdm.data.near_duplicates import NearDuplicates
from dsdm.data.stores import upload_folder
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.groups import checkpoint_mean
from dsdm.progress import progress
from dsdm.selection import Scores, SelectionConfig, choose
from dsdm.selection.score_files import load_scores, write_chosen
from dsdm.stages.baselines import baseline_folder
from dsdm.stages.making.scores import checkpoint_weights, merged_table, shrinkage_of_run
from dsdm.stages.run import Run
from dsdm.stages.scores import MERGED
from dsdm.stages.scores_table import PROVENANCE, SCORES, shrunk_for_target
from dsdm.stages.selection import SELECTION


def scores_path(run: Run, method: str, target: str | None = None) -> Path:
    """The table with the scores by an estimator, or by a baseline."""
    if method in BASELINES:
        return run.folder / "baselines" / baseline_folder(method, target) / SCORES
    return merged_table(run)


def run_scores(run: Run, method: str) -> Scores:
    """The scores of one estimator or baseline over the whole pool; dropped candidates are last."""
    path = scores_path(run, method)
    manifest = load_manifest(path.parent)
    column = str(ScoreColumn(method))
    scores = load_scores([path], column, manifest.fingerprint if manifest else "")
    values = scores.values.copy()
    values[run.dropped] = values.min() - 1
    return dataclasses.replace(scores, values=values)


def target_scores(run: Run, estimator: str, target: str) -> Scores:
    """The scores of one estimator for one target alone, of all its checkpoints."""
    numbers = range(run.experiment.proxies.num_checkpoints)
    columns = [ScoreColumn(estimator, number, target) for number in numbers]
    found = [load_scores([merged_table(run)], str(column)) for column in columns]
    if run.experiment.scores.group_means_from == "all":
        weights = checkpoint_weights(run, estimator)
        values = checkpoint_mean([scores.values for scores in found], weights)
    else:
        shrinkage = shrinkage_of_run(run)
        assert shrinkage is not None, "scores are shrunk to the means of the first checkpoint"
        folder = run.folder / "scores" / estimator
        pieces = [folder / piece.folder for piece in run.pool.pieces]
        values = shrunk_for_target(pieces, columns[0], shrinkage)
    return dataclasses.replace(found[0], values=values, method=estimator, target=target)


def near_duplicates(run: Run, config: SelectionConfig) -> Callable[[int], bool] | None:
    """Says of a candidate whether it is nearly a copy of one that was kept; None: not asked for."""
    if config.near_duplicates is None:
        return None
    examples, tokenizer = run.examples, run.tokenizer
    guard = NearDuplicates(lambda one: examples.text_of(one, tokenizer), config.near_duplicates)
    return guard.is_duplicate


def write_selection(run: Run, draft: Draft, config: SelectionConfig) -> None:
    """Writes the candidates that are kept, with their scores."""
    estimator = run.experiment.selecting_estimator
    others = [root / "scores" / MERGED / SCORES for root in run.packed[1:]]
    paths = [scores_path(run, estimator), *others]
    is_ruled = config.source_cap is not None or bool(config.source_floor)
    scores = load_scores(paths, estimator, with_sources=is_ruled)
    guard = near_duplicates(run, config)
    is_chosen = choose(scores, config, refused=run.dropped, is_refused=guard)
    write_chosen(paths, PROVENANCE, estimator, is_chosen, draft.path / SELECTION)
    draft.counts.update(
        candidates=int(is_chosen.sum()),
        tokens=int(scores.num_tokens.sum(dtype=np.int64, where=is_chosen)),
        pool_candidates=len(scores.values),
        pool_tokens=int(scores.num_tokens.sum(dtype=np.int64)),
    )


def write_dataset(run: Run, draft: Draft, selection: Path) -> None:
    """Writes the chosen documents or rows in the format that was asked for."""
    chosen = pq.read_table(selection / SELECTION, columns=["candidate", "score"])
    counts = export(
        run.examples,
        chosen["candidate"].to_numpy(),
        chosen["score"].to_numpy(),
        [piece.piece for piece in run.pieces],
        run.experiment.pool,
        run.tokenizer,
        run.experiment.export,
        draft.path,
    )
    draft.counts.update(msgspec.to_builtins(counts))
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
