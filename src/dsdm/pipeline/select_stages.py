"""The stages that choose: the merged scores, the selection, the dataset that is exported."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import Draft
from dsdm.config import as_dict
from dsdm.data.export import export_dataset
from dsdm.pipeline.data_stages import dropped_inputs, examples_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.score_stages import scores_work
from dsdm.pipeline.scores_table import (
    PROVENANCE,
    SCORES,
    Combination,
    Levels,
    Shrinkage,
    drawn_at_levels,
    load_scores,
    merge_scores,
)
from dsdm.pipeline.topic_stages import group_of_candidate, shrinkages, topics_work
from dsdm.pipeline.work import Work, fingerprints
from dsdm.selection import Scores, SelectionConfig, select
from dsdm.selection.score_files import read_scores, write_chosen
from dsdm.selection.streaming import Chosen, is_plain, select_streaming

SELECTION = "selection.parquet"


def merged_scores_work(run: Run) -> Iterator[Work]:
    """All shards' scores in one file."""
    inputs = fingerprints([*scores_work(run), *topics_work(run)])
    # No setting of the scores themselves: they are drawn to other means in seconds.
    by_method = shrinkages(run)
    inputs |= {f"shrinkage of {method}": f"{by:g}" for method, by in by_method.items()}
    if run.experiment.scores.group_means_from != "all":
        inputs |= {"group means": run.experiment.scores.group_means_from}
    if by_method:
        inputs |= dropped_inputs(run)
    yield Work(
        "scores",
        run.folder / "scores" / "all",
        {},
        inputs,
        partial(_merge, run),
        follows_inputs=True,
    )


def selection_work(run: Run) -> Iterator[Work]:
    """The candidates that are kept."""
    config = {"selection": run.experiment.selection, "method": run.experiment.selecting_estimator}
    inputs = fingerprints(list(merged_scores_work(run)))
    make = partial(_select, run, run.experiment.selection)
    path = run.folder / "selection"
    yield Work("selection", path, config, inputs, make, follows_inputs=True)


def dataset_work(run: Run) -> Iterator[Work]:
    """The selected documents or rows, ready to train on."""
    inputs = fingerprints(list(selection_work(run)))
    make = partial(_export, run, run.folder / "selection")
    path = run.folder / "dataset"
    yield Work("dataset", path, run.experiment.export, inputs, make, follows_inputs=True)


def reselect_work(run: Run, selection: SelectionConfig, out: Path) -> Iterator[Work]:
    """Another cut of a finished run's scores, selected and exported into `out`."""
    config = {"selection": selection, "method": run.experiment.selecting_estimator}
    inputs = fingerprints(list(merged_scores_work(run)))
    chosen = Work("selection", out / "selection", config, inputs, partial(_select, run, selection))
    yield chosen
    make = partial(_export, run, out / "selection")
    yield Work("dataset", out / "dataset", run.experiment.export, fingerprints([chosen]), make)


def run_scores(run: Run, method: str) -> Scores:
    """The scores of one method over the whole pool; dropped candidates are last."""
    (merged,) = merged_scores_work(run)
    scores = load_scores(merged.path / SCORES, method, merged.fingerprint)
    if not len(run.droppable):
        return scores
    values = scores.values.copy()
    values[run.droppable] = values.min() - 1
    return dataclasses.replace(scores, values=values)


def target_scores(run: Run, method: str, target: str) -> Scores:
    """The scores of one method for one target alone, of all its proxies and their checkpoints."""
    (merged,) = merged_scores_work(run)

    def of_point(number: int) -> Scores:
        name = f"{method}.{number}.{target}"
        return load_scores(merged.path / SCORES, name, merged.fingerprint)

    first = of_point(0)
    if run.experiment.scores.group_means_from == "all":
        others = [of_point(number) for number in range(1, run.experiment.proxies.num_points)]
        columns = {one.method: one.values for one in (first, *others)}
        values = Combination(run.point_weights, {}).mean(method, target, columns)
    else:
        shrinkage = shrinkage_of_run(run)
        assert shrinkage is not None, "an experiment with levels draws its scores"
        folders = [run.folder / "scores" / method / shard.name for shard in run.shards]
        values = drawn_at_levels(folders, method, target, shrinkage)
    return dataclasses.replace(first, values=values, method=method, target=target)


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
    dropped = frozenset(run.droppable.tolist()) | frozenset(int(candidate) for candidate in also)
    if config.near_duplicates is None and not dropped:
        return None
    if config.near_duplicates is None or not near_duplicates:
        return dropped.__contains__
    # Imported here because its library takes a second to load.
    from dsdm.data.near_duplicates import NearDuplicates

    guard = NearDuplicates(
        lambda candidate: run.examples.text_of(candidate, run.tokenizer), config.near_duplicates
    )
    return lambda candidate: candidate in dropped or guard.is_duplicate(candidate)


def _merge(run: Run, draft: Draft) -> None:
    methods = run.experiment.estimators
    folder = run.folder / "scores"
    shards = [[folder / method / shard.name for method in methods] for shard in run.shards]
    path = draft.path / SCORES
    draft.counts["candidates"] = merge_scores(shards, path, shrinkage_of_run(run))


def shrinkage_of_run(run: Run) -> Shrinkage | None:
    """How scores are drawn towards the means of their groups; None: not at all."""
    by_method = shrinkages(run)
    if not by_method:
        return None
    group = group_of_candidate(run)
    is_counted = np.ones(len(group), bool)
    is_counted[run.droppable] = False
    return Shrinkage(by_method, group, is_counted, levels_of(run))


def levels_of(run: Run) -> Levels | None:
    """Which points say what groups are worth, where that is not said by all of them."""
    if run.experiment.scores.group_means_from == "all":
        return None
    is_first = np.arange(len(run.point_weights)) % run.experiment.proxies.checkpoints == 0
    between, within = (np.where(one, run.point_weights, 0.0) for one in (is_first, ~is_first))
    return Levels(between / between.sum(), within / within.sum())


def _select(run: Run, config: SelectionConfig, draft: Draft) -> None:
    (merged,) = merged_scores_work(run)
    path, method = merged.path / SCORES, run.experiment.selecting_estimator
    if is_plain(config):
        read = read_scores(path, method)
        chosen = select_streaming(read, config, method=method, refused=run.droppable)
    else:
        scores = run_scores(run, method)
        chosen = Chosen.of(select(scores, config, is_refused=refusal(run, config)), scores)
    write_chosen(path, PROVENANCE, method, chosen.is_chosen, draft.path / SELECTION)
    draft.counts.update(
        candidates=int(chosen.is_chosen.sum()),
        tokens=chosen.num_tokens,
        pool_candidates=len(chosen.is_chosen),
        pool_tokens=chosen.pool_tokens,
    )


def _export(run: Run, selection: Path, draft: Draft) -> None:
    chosen = pq.read_table(selection / SELECTION, columns=["candidate", "score"])
    export_dataset(
        run.examples,
        chosen["candidate"].to_numpy(),
        chosen["score"].to_numpy(),
        [shard.file for shard in run.shards],
        run.experiment.pool,
        run.tokenizer,
        run.experiment.export,
        draft,
    )
    draft.counts["experiment"] = as_dict(run.experiment)
    draft.counts["shards"] = fingerprints(list(examples_work(run)))
