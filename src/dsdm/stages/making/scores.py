"""Screens and scores the pool, and merges the scores of its shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from dsdm.artifacts import Draft, write_json
from dsdm.data.batches import Rows
from dsdm.data.examples import Shard
from dsdm.data.sequences import AllBut, Subset
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.config import MIX, ScreeningConfig
from dsdm.datamodel.estimate import Estimated, load_estimated
from dsdm.datamodel.estimators import known_estimator
from dsdm.datamodel.groups import CheckpointWeights, checkpoint_mean
from dsdm.datamodel.score import needed_targets, score_examples
from dsdm.datamodel.scoring import FORWARD_PASSES, forward_slopes, require_finite
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.screening import (
    MOST_SAMPLED,
    Tables,
    contexts_of,
    fit_tables,
    load_tables,
    token_slopes,
)
from dsdm.progress import Advance, progress
from dsdm.stages.making.models import derived_seed, scorer_of
from dsdm.stages.making.topics import group_of_candidate
from dsdm.stages.run import Run
from dsdm.stages.scores import CUT, MERGED, SAMPLE, load_sample
from dsdm.stages.scores_table import (
    SCORES,
    Shrinkage,
    Weights,
    candidate_means,
    merge_scores,
    write_scores,
)
from dsdm.stages.topics import shrinkages

CUT_CANDIDATES = 50_000
"""Candidates that say how high the best share of the predictions begins."""


def checkpoint_weights(run: Run, estimator: str) -> Weights:
    """What each checkpoint counts for in an estimator's scores.

    None where its directions along a training hold what each counts for.
    """
    return None if known_estimator(estimator).needs_training else run.checkpoint_weights


def screen(run: Run, draft: Draft, estimator: str, screening: ScreeningConfig) -> None:
    """Learns tables from the exact scores of a random sample, and where the best begin."""
    experiment, examples = run.experiment, run.examples
    usable = AllBut(examples, examples.num_candidates, run.dropped)
    seed = derived_seed(experiment.seed, "screening")
    rng = np.random.default_rng(seed)
    count = min(max(1, round(screening.sample * len(usable))), MOST_SAMPLED)
    drawn = np.sort(rng.choice(len(usable), count, replace=False))
    rows = examples.rows_of(usable.originals(drawn))
    sample = Subset(examples, rows)
    checkpoints = range(experiment.proxies.num_checkpoints)
    with progress(f"screening/{estimator}", len(checkpoints) * len(rows), "rows") as advance:
        slopes = np.stack(
            [_token_slopes(run, estimator, i, sample, draft, advance) for i in checkpoints], 1
        )
    contexts = contexts_of(sample)
    owners = np.unique(examples.candidate_of_row[rows], return_inverse=True)[1]
    tables, predicted = fit_tables(contexts, slopes, seed, owners)
    tables.save(draft.path)
    exact = contexts.means(slopes)
    scores, unseen = (
        _candidate_means(run, _combined(run, estimator, values), rows)
        for values in (exact, predicted)
    )
    np.savez(draft.path / SAMPLE, rows=rows, exact=exact, scores=scores, predicted=unseen)
    # Tables predict their own sample too well to say where the best begin.
    others = AllBut(examples, len(usable), drawn)
    seen = np.sort(rng.choice(len(others), min(CUT_CANDIDATES, len(others)), replace=False))
    wanted = max(0, round(screening.share * len(usable)) - count)
    candidates = usable.originals(others.originals(seen))
    cut = _cut(run, estimator, tables, candidates, wanted / len(others)) if len(others) else 0.0
    write_json(draft.path / CUT, {"cut": cut})
    draft.counts.update(candidates=count, rows=len(rows))


def score(run: Run, drafts: Mapping[str, Draft], number: int, is_screened: bool) -> None:
    """Scores one shard for several estimators, by their names."""
    shard, scratch = run.examples.shards[number], next(iter(drafts.values())).path
    # Columns are mapped files, so memory does not grow with the shard.
    files: list[Path] = []

    def allocate(column: ScoreColumn, count: int) -> np.ndarray:
        files.append(scratch / f".{len(files)}.npy")
        return np.lib.format.open_memmap(files[-1], "w+", np.float32, (count,))

    def score_rows(rows: Rows) -> tuple[dict[ScoreColumn, np.ndarray], float]:
        title = f"scores/{'+'.join(drafts)}/{number:05d}"
        with progress(title, None, "rows") as advance:
            return score_examples(
                rows,
                [partial(_open, run, i, list(drafts)) for i in range(num_checkpoints)],
                run.weights,
                run.experiment.scores,
                allocate=allocate,
                advance=advance,
            )

    num_checkpoints = run.experiment.proxies.num_checkpoints
    is_predicted = None
    if is_screened:
        (estimator,) = drafts  # forward passes are each estimator's own
        columns, flops, is_predicted = _screened_columns(run, shard, estimator, score_rows)
    else:
        columns, flops = score_rows(shard)
    for estimator, draft in drafts.items():
        own = {
            column: values for column, values in columns.items() if column.estimator == estimator
        }
        weights = {estimator: checkpoint_weights(run, estimator)}
        path = draft.path / SCORES
        num_lines = write_scores(run.examples, shard, own, path, weights, is_predicted)
        draft.counts.update(candidates=num_lines, columns=len(own))
        if is_predicted is not None:
            draft.counts.update(rows=shard.num_rows, scored=int((~is_predicted).sum()))
        draft.flops = flops
    for file in files:
        file.unlink()


def merge(run: Run, draft: Draft) -> None:
    """Writes the scores of all shards and estimators as one table."""
    folder = run.folder / "scores"
    shards = [
        [folder / estimator / piece.folder for estimator in run.experiment.estimators]
        for piece in run.pool.pieces
    ]
    # Files that are scored after the run are shrunk to the means of the run's candidates.
    means_from = run.shared / "scores" / MERGED if run.is_later else None
    path = draft.path / SCORES
    draft.counts["candidates"] = merge_scores(shards, path, shrinkage_of_run(run), means_from)


def merged_table(run: Run) -> Path:
    """The finished table of all scores."""
    return run.folder / "scores" / MERGED / SCORES


def shrinkage_of_run(run: Run) -> Shrinkage | None:
    """How scores are shrunk towards the means of their groups; None: not at all."""
    by_estimator = shrinkages(run)
    if not by_estimator:
        return None
    group = group_of_candidate(run)
    is_counted = np.ones(len(group), bool)
    is_counted[run.dropped] = False
    split = None
    if run.experiment.scores.group_means_from == "first":
        weights, each = run.checkpoint_weights, run.experiment.proxies.checkpoints
        is_first = np.arange(len(weights)) % each == 0
        first, others = (np.where(one, weights, 0.0) for one in (is_first, ~is_first))
        split = CheckpointWeights(first / first.sum(), others / others.sum())
    return Shrinkage(by_estimator, group, is_counted, split)


def _combined(
    run: Run, estimator: str, columns: Float[np.ndarray, "rows checkpoints"]
) -> np.ndarray:
    """The scores for the mix, of those at each checkpoint."""
    return checkpoint_mean(list(columns.T), checkpoint_weights(run, estimator))


def _cut(run: Run, estimator: str, tables: Tables, candidates: np.ndarray, share: float) -> float:
    """What the best share of some candidates is predicted to reach."""
    rows = run.examples.rows_of(candidates)
    values = _combined(run, estimator, tables.predict(Subset(run.examples, rows)))
    return float(np.quantile(_candidate_means(run, values, rows), 1 - share))


def _candidate_means(
    run: Run, values: Float[np.ndarray, " rows"], rows: np.ndarray
) -> Float[np.ndarray, " candidates"]:
    """Of the candidates that rows belong to, in their order."""
    owners, at = np.unique(run.examples.candidate_of_row[rows], return_inverse=True)
    return candidate_means(values, run.examples.lengths_of(rows), at, len(owners))


def _open(
    run: Run, number: int, estimators: Sequence[str]
) -> tuple[CausalLM, dict[str, Estimated]]:
    """A checkpoint as it reads candidates, and what the estimators gave there."""
    learner, folder = scorer_of(run, run.checkpoint(number)), run.models / "directions"
    targets, device = needed_targets(list(run.weights), run.experiment.scores), learner.model.device
    return learner, {
        name: load_estimated(folder / name / str(number), targets, device) for name in estimators
    }


def _token_slopes(
    run: Run, estimator: str, number: int, sample: Rows, draft: Draft, advance: Advance
) -> Float[np.ndarray, " tokens"]:
    """Of the sample's tokens, along the direction of the mix at one checkpoint."""
    scorer, found = _open(run, number, [estimator])
    direction, step = found[estimator].directions[MIX], found[estimator].calibration.steps[MIX]
    learner = scorer.using(precision=step.precision)
    lengths = sample.lengths
    row_flops = learner.pass_flops(int(lengths.max()))
    draft.flops += FORWARD_PASSES * float(lengths.sum()) * row_flops

    def slopes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for indices, lines in forward_slopes(
            learner, direction, sample, step.step, learner.token_outputs
        ):
            yield indices, require_finite(lines, estimator)
            advance(len(indices))

    return token_slopes(sample, slopes())


def _screened_columns(
    run: Run,
    shard: Shard,
    estimator: str,
    score_rows: Callable[[Rows], tuple[dict[ScoreColumn, np.ndarray], float]],
) -> tuple[dict[ScoreColumn, np.ndarray], float, Bool[np.ndarray, " rows"]]:
    """As `score_rows` for a shard, predicted below the cut, and which rows are.

    All rows of a candidate are scored exactly, or none.
    """
    folder = run.models / "screening" / estimator
    sample = load_sample(folder)
    predicted = load_tables(folder).predict(shard).astype(np.float32)
    here = slice(*np.searchsorted(sample.rows, [shard.first_row, shard.first_row + shard.num_rows]))
    known = sample.rows[here] - shard.first_row
    if run.is_later:  # the sample is of the run's own pool
        here, known = slice(0, 0), known[:0]
    is_wanted = _above(run, shard, _combined(run, estimator, predicted), sample.cut)
    is_wanted[known] = False
    wanted = np.flatnonzero(is_wanted)
    exact, flops = score_rows(Subset(shard, wanted)) if len(wanted) else ({}, 0.0)
    columns = {}
    for checkpoint, values in enumerate(predicted.T):
        column = ScoreColumn(estimator, checkpoint)
        values[known] = sample.exact[here, checkpoint]
        if column in exact:
            values[wanted] = exact[column]
        columns[column] = values
    is_predicted = ~is_wanted
    is_predicted[known] = False
    return columns, flops, is_predicted


def _above(run: Run, shard: Shard, values: np.ndarray, cut: float) -> Bool[np.ndarray, " rows"]:
    """Which rows are of candidates that are predicted to reach the cut."""
    if run.examples.unit == "row":
        return np.asarray(values >= cut)
    documents = np.asarray(shard.rows["document"])
    means = candidate_means(values, shard.lengths, documents, shard.num_documents)
    return np.asarray(means[documents] >= cut)
