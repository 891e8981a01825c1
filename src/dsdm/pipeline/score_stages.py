"""The stages that score candidates: what is learned to screen them by, and the scores."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from dsdm.artifacts import Draft, write_json
from dsdm.data.examples import Shard
from dsdm.data.sequences import AllBut, Rows, Subset
from dsdm.datamodel.calibration import load_calibration
from dsdm.datamodel.config import MIX, TRAITS, ScreeningConfig, scored_targets, scores_forward
from dsdm.pipeline.data_stages import examples_work, first_examples_work
from dsdm.pipeline.model_stages import derived_seed, directions_work, make_one, target_weights
from dsdm.pipeline.run import Run
from dsdm.pipeline.scores_table import SCORES, Combination, candidate_means, write_scores
from dsdm.pipeline.work import Advance, Pass, Work, fingerprints, finished_counts, progress

if TYPE_CHECKING:
    from dsdm.datamodel.screening import Tables

SCREENING = "screening"
SAMPLE = "sample.npz"
"""File of a screening: the rows of its sample, their exact scores and what the rest predicted."""
CUT = "screening.json"
CUT_CANDIDATES = 50_000
"""Candidates that say how high the best share of the predictions begins."""


def screening_work(run: Run) -> Iterator[Work]:
    """For each estimator, what its scores are predicted by; nothing where all are computed."""
    screening = screening_of(run)
    if screening is None:
        return
    directions = list(directions_work(run))
    for method in run.experiment.estimators:
        own = [work for work in directions if work.path.parent.name == method]
        path = run.folder / SCREENING / method
        make = partial(_screen, run, method, screening)
        yield Work(SCREENING, path, screening, fingerprints(own), make)


def screening_of(run: Run) -> ScreeningConfig | None:
    """What part of the pool is scored exactly, by the files that the run began with; None: all."""
    return run.experiment.screening(*first_sizes(run))


def first_sizes(run: Run) -> tuple[int, int]:
    """Candidates and tokens of the files that the run began with."""
    sizes = Counter[str]()
    for work in first_examples_work(run):
        sizes.update(finished_counts(work))
    unit = "rows" if run.experiment.examples.unit == "row" else "documents"
    return sizes[unit], sizes["tokens"]


def scores_work(run: Run) -> Iterator[Work]:
    """For each estimator, one shard of scores for each shard of examples."""
    directions = list(directions_work(run))
    screenings = list(screening_work(run))
    is_shared = _is_scored_backward(run)
    for method in run.experiment.estimators:
        own = [work for work in directions if work.path.parent.name == method]
        own += [work for work in screenings if work.path.name == method]
        for shard, examples in zip(run.shards, examples_work(run), strict=True):
            path = run.folder / "scores" / method / shard.name
            inputs = fingerprints([examples, *own])
            # Named by its folder: a replicate's pass is another one.
            name = str(run.folder / "scores" / shard.name)
            score = partial(_score, run, shard.number, bool(screenings))
            shared = Pass(name, score) if is_shared and TRAITS[method].is_slope else None
            yield Work("scores", path, {}, inputs, partial(make_one, score, path), shared)


@dataclass(frozen=True)
class Sample:
    """Candidates that were drawn at random and scored exactly, whatever is predicted of them."""

    rows: np.ndarray
    """Sorted numbers of their rows, shape (rows,)."""
    exact: Float[np.ndarray, "rows points"]
    """The rows' scores."""
    scores: Float[np.ndarray, " candidates"]
    """The candidates' own."""
    predicted: Float[np.ndarray, " candidates"]
    """What tables of the other candidates say of them."""
    cut: float
    """Candidates that are predicted to score as much or more are scored exactly."""


def load_sample(folder: Path) -> Sample:
    """What a finished screening has drawn."""
    cut: float = json.loads((folder / CUT).read_text(encoding="utf-8"))["cut"]
    with np.load(folder / SAMPLE) as arrays:
        rows, exact, scores, predicted = (
            arrays[name] for name in ("rows", "exact", "scores", "predicted")
        )
    return Sample(rows, exact, scores, predicted, cut)


def combination_of(run: Run) -> Combination:
    """How a method's columns become one score."""
    return Combination(run.point_weights, target_weights(run))


def combined(run: Run, method: str, columns: Float[np.ndarray, "rows points"]) -> np.ndarray:
    """The scores for the mix, of its scores at each point."""
    named = {f"{method}.{i}.{MIX}": column for i, column in enumerate(columns.T)}
    return combination_of(run).score(method, named)


def _screen(run: Run, method: str, screening: ScreeningConfig, draft: Draft) -> None:
    from dsdm.datamodel.screening import MOST_SAMPLED, contexts_of, fit_tables

    experiment = run.experiment
    usable, seed = _usable_candidates(run), derived_seed(experiment.seed, SCREENING)
    rng = np.random.default_rng(seed)
    count = min(max(1, round(screening.sample * len(usable))), MOST_SAMPLED)
    drawn = np.sort(rng.choice(len(usable), count, replace=False))
    rows = run.examples.rows_of(usable.originals(drawn))
    sample = Subset(run.examples, rows)
    points = range(experiment.proxies.num_points)
    with progress(f"{SCREENING}/{method}", len(points) * len(rows), "rows") as advance:
        slopes = np.stack([_slopes(run, method, i, sample, draft, advance) for i in points], 1)
    contexts = contexts_of(sample)
    owners = np.unique(run.examples.candidate_of_row[rows], return_inverse=True)[1]
    tables, predicted = fit_tables(contexts, slopes, seed, owners)
    tables.save(draft.path)
    exact = contexts.means(slopes)
    scores, unseen = (
        _candidate_means(run, combined(run, method, values), rows) for values in (exact, predicted)
    )
    np.savez(draft.path / SAMPLE, rows=rows, exact=exact, scores=scores, predicted=unseen)
    # Of the sample's own candidates tables predict too well to say where the best begin.
    others = AllBut(run.examples, len(usable), drawn)
    seen = np.sort(rng.choice(len(others), min(CUT_CANDIDATES, len(others)), replace=False))
    wanted = max(0, round(screening.share * len(usable)) - count)
    candidates = usable.originals(others.originals(seen))
    cut = _cut(run, method, tables, candidates, wanted / len(others)) if len(others) else 0.0
    write_json(draft.path / CUT, {"cut": cut})
    draft.counts.update(candidates=count, rows=len(rows))


def _usable_candidates(run: Run) -> AllBut:
    """Candidates of the first pool, in order, without those that are dropped."""
    end = run.num_first_candidates
    return AllBut(run.examples, end, run.droppable[run.droppable < end])


def _cut(run: Run, method: str, tables: "Tables", candidates: np.ndarray, share: float) -> float:
    """What the best share of some candidates is predicted to reach."""
    rows = run.examples.rows_of(candidates)
    values = combined(run, method, tables.predict(Subset(run.examples, rows)))
    return float(np.quantile(_candidate_means(run, values, rows), 1 - share))


def _candidate_means(
    run: Run, values: Float[np.ndarray, " rows"], rows: np.ndarray
) -> Float[np.ndarray, " candidates"]:
    """Of the candidates that rows belong to, in their order."""
    owners, at = np.unique(run.examples.candidate_of_row[rows], return_inverse=True)
    return candidate_means(values, run.examples.lengths_of(rows), at, len(owners))


def _slopes(
    run: Run, method: str, number: int, sample: Rows, draft: Draft, advance: Advance
) -> Float[np.ndarray, " tokens"]:
    """Of the sample's tokens, along the direction of the mix at one point."""
    from dsdm.datamodel.directions import load_direction
    from dsdm.datamodel.estimate import direction_path
    from dsdm.datamodel.scoring import FORWARD_PASSES
    from dsdm.datamodel.screening import token_slopes
    from dsdm.lm.model import flops_per_token

    experiment, model = run.experiment, run.point(number)
    folder = run.folder / "directions" / method / str(number)
    direction = load_direction(direction_path(folder, MIX), model.device)
    row_flops = flops_per_token(model, int(sample.lengths.max()))
    draft.flops += FORWARD_PASSES * float(sample.lengths.sum()) * row_flops
    step = load_calibration(folder).steps[MIX]
    return token_slopes(
        model,
        direction,
        sample,
        experiment.directions.output,
        step.step,
        step.settings(experiment.scores),
        advance,
    )


def _is_scored_backward(run: Run) -> bool:
    """Whether one pass serves every estimator: each forward pass serves one direction."""
    wanted = scored_targets([t.name for t in run.experiment.targets], run.experiment.scores)
    return not scores_forward(run.experiment.scores, len(wanted))


def _score(run: Run, number: int, is_screened: bool, drafts: Mapping[Path, Draft]) -> None:
    """Scores one shard for several estimators: each draft's path is `METHOD/SHARD`."""
    from dsdm.datamodel.score_shard import SCRATCH

    shard = run.examples.shards[number]
    by_method = {path.parent.name: draft for path, draft in drafts.items()}
    scratch = by_method[next(iter(by_method))].path
    is_predicted = None
    if is_screened:
        (method,) = by_method  # forward passes are each estimator's own
        columns, flops, is_predicted = _screened_columns(run, shard, number, method, scratch)
    else:
        columns, flops = _exact_columns(run, shard, number, list(by_method), scratch)
    for method, draft in by_method.items():
        own = {name: column for name, column in columns.items() if name.split(".", 1)[0] == method}
        path = draft.path / SCORES
        num_lines = write_scores(run.examples, shard, own, path, combination_of(run), is_predicted)
        draft.counts.update(candidates=num_lines, columns=len(own))
        if is_predicted is not None:
            draft.counts.update(rows=shard.num_rows, scored=int((~is_predicted).sum()))
        draft.flops = flops
    for file in scratch.glob(f"*{SCRATCH}"):
        file.unlink()


def _exact_columns(
    run: Run, rows: Rows, number: int, methods: list[str], scratch: Path
) -> tuple[dict[str, np.ndarray], float]:
    """Scores of rows by METHOD.POINT.TARGET, and their FLOPs."""
    from dsdm.datamodel.score_shard import Estimated, Point, score_shard

    experiment = run.experiment
    with progress(f"scores/{'+'.join(methods)}/{number:05d}", None, "rows") as advance:
        return score_shard(
            rows,
            Estimated(run.folder / "directions", methods, target_weights(run)),
            [
                Point(partial(run.point, i), run.point_folder(i))
                for i in range(experiment.proxies.num_points)
            ],
            experiment.directions.output,
            experiment.scores,
            scratch,
            advance,
        )


def _screened_columns(
    run: Run, shard: Shard, number: int, method: str, scratch: Path
) -> tuple[dict[str, np.ndarray], float, Bool[np.ndarray, " rows"]]:
    """The same for a shard's rows, predicted where they need not be known, and where that is.

    Candidates are known whole or not at all, and those that are not are predicted below the cut.
    """
    from dsdm.datamodel.screening import load_tables

    folder = run.folder / SCREENING / method
    sample = load_sample(folder)
    predicted = load_tables(folder).predict(shard).astype(np.float32)
    here = slice(*np.searchsorted(sample.rows, [shard.first_row, shard.first_row + shard.num_rows]))
    known = sample.rows[here] - shard.first_row
    is_wanted = _above(run, shard, combined(run, method, predicted), sample.cut)
    is_wanted[known] = False
    wanted = np.flatnonzero(is_wanted)
    exact: dict[str, np.ndarray] = {}
    flops = 0.0
    if len(wanted):
        exact, flops = _exact_columns(run, Subset(shard, wanted), number, [method], scratch)
    columns = {}
    for point, column in enumerate(predicted.T):
        name = f"{method}.{point}.{MIX}"
        column[known] = sample.exact[here, point]
        if name in exact:
            column[wanted] = exact[name]
        columns[name] = column
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
