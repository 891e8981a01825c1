"""What the report shows of a run's scores: memory for one column at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import load_manifest
from dsdm.data.duplicates import load_duplicates
from dsdm.data.examples import Examples, counted_lengths, load_examples
from dsdm.datamodel.calibration import load_calibration, load_exact
from dsdm.datamodel.config import shrinkage_of
from dsdm.evaluation.agreement import rank_correlations
from dsdm.experiment import Experiment
from dsdm.report.figures import score_by_length, score_histogram
from dsdm.report.parts import Calibration, Figure, Matrix, SourceShare
from dsdm.selection import Scores
from dsdm.selection.score_files import load_scores
from dsdm.stages.making.selection import selected_candidates
from dsdm.stages.scores_table import PREDICTED, PROVENANCE, SCORES

MOST_SOURCES = 40
MOST_COLUMNS = 24
SAMPLE = 200_000
LENGTH_BINS = 20


def packed_pool(folder: Path, experiment: Experiment) -> Examples:
    """The packed pool of a run."""
    folders = sorted((folder / "examples").glob("[0-9]*"))
    return load_examples(folders, load_duplicates(folder / "duplicates"), experiment.examples.unit)


@dataclass(frozen=True)
class ScoredPool:
    """The scores of a run with what was selected by them."""

    folder: Path
    experiment: Experiment
    scores: Scores
    selected: np.ndarray
    """Whether each candidate is selected; all False before the selection."""

    @property
    def num_tokens(self) -> np.ndarray:
        """Tokens in each candidate."""
        return self.scores.num_tokens

    @property
    def path(self) -> Path:
        """The scores file."""
        return self.folder / "scores" / "all" / SCORES

    @cached_property
    def is_screened(self) -> bool:
        """Whether some scores are what a screening predicts: the lowest are."""
        return f"{self.scores.method}.{PREDICTED}" in pq.read_schema(self.path).names

    def source_shares(self) -> tuple[list[SourceShare], int]:
        """Each source's part, the largest first, and how many are summed in the last of them."""
        names, codes = list(self.scores.source_names), self.scores.sources
        kept, tokens = self.selected, self.num_tokens.astype(np.float64)
        sums = np.stack(
            [
                np.bincount(codes, weights, len(names))
                for weights in (kept * tokens, tokens, kept, None, self.scores.values)
            ]
        )
        order = np.lexsort((np.arange(len(names)), -sums[1], -sums[0]))
        names, sums = [names[i] for i in order], sums[:, order]
        num_other = len(names) - MOST_SOURCES if len(names) > MOST_SOURCES + 1 else 0
        if num_other:
            names = [*names[:MOST_SOURCES], "other sources"]
            rest = sums[:, MOST_SOURCES:].sum(axis=1, keepdims=True)
            sums = np.hstack([sums[:, :MOST_SOURCES], rest])
        return _shares(names, sums), num_other

    def figures(self) -> list[Figure]:
        """The distribution of scores, and scores by length where lengths differ."""
        values = self.scores.values
        figures = [score_histogram("scores", values, values[self.selected])]
        bins = _length_bins(self.num_tokens)
        if len(bins) > 2:
            lengths = np.array([np.median(self.num_tokens[rows]) for rows in bins])
            quantiles = np.stack([np.quantile(values[rows], [0.1, 0.5, 0.9]) for rows in bins])
            figures.append(score_by_length("lengths", lengths, quantiles))
        return figures

    def length_correlation(self) -> float:
        """Rank correlation of score with length; NaN where all lengths are the same."""
        return self._correlation_with(self.num_tokens)

    def completion_correlation(self) -> float:
        """Rank correlation of score with what is learned of a conversation; NaN for documents."""
        lengths = counted_lengths(packed_pool(self.folder, self.experiment))
        return math.nan if lengths is None else self._correlation_with(lengths)

    def _correlation_with(self, lengths: np.ndarray) -> float:
        columns = [self.scores.values[self._sample], lengths[self._sample].astype(float)]
        return float(rank_correlations(columns)[0, 1])

    def agreement(self) -> list[Matrix]:
        """Correlations of the scores' columns."""
        names = scored_columns(pq.read_schema(self.path).names)
        columns = [self.column(name)[self._sample] for name in names]
        if len(names) < 2:
            return []
        correlations = rank_correlations(columns)
        over, note = f"{len(self._sample):,} candidates", ""
        if any(shrinkage_of(self.experiment.scores, m) for m in self.experiment.estimators):
            note = " Shrinkage makes proxies agree more here than on calibration rows."
        return [Matrix("Scores", over, f"Over {over}.{note}", names, correlations)]

    def column(self, name: str) -> np.ndarray:
        """One column of the scores file."""
        return np.asarray(pq.read_table(self.path, columns=[name])[name].to_numpy())

    @cached_property
    def _sample(self) -> np.ndarray:
        """Candidates that correlations are taken over: all, or as many drawn as are enough."""
        count = len(self.num_tokens)
        if count <= SAMPLE:
            return np.arange(count)
        return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))


def load_scored_pool(folder: Path, experiment: Experiment) -> ScoredPool | None:
    """The merged scores of a run and its selection; None before there are scores."""
    manifest = load_manifest(folder / "scores" / "all")
    if manifest is None:
        return None
    scores = load_scores(
        [folder / "scores" / "all" / SCORES], experiment.selecting_estimator, manifest.fingerprint
    )
    selected = np.zeros(len(scores.values), bool)
    selection = load_manifest(folder / "selection")
    # A selection from earlier scores would mark the wrong candidates.
    if selection is not None and selection.inputs["scores/all"] == manifest.fingerprint:
        selected[selected_candidates(folder / "selection")] = True
    return ScoredPool(folder, experiment, scores, selected)


def calibrations(folder: Path, experiment: Experiment) -> Iterator[Calibration]:
    """How each direction that was scored forward agrees with its exact derivative."""
    for method, proxy, directions in _direction_folders(folder, experiment):
        for target, step in load_calibration(directions).steps.items():
            precision = step.settings(experiment.scores).precision
            yield Calibration(method, str(proxy), target, step.step, step.correlation, precision)


def calibration_agreement(folder: Path, experiment: Experiment) -> Iterator[Matrix]:
    """For each method, how proxies and targets agree in the exact scores of calibration rows."""
    by_method: dict[str, dict[str, np.ndarray]] = {}
    for method, proxy, directions in _direction_folders(folder, experiment):
        exact = load_exact(directions, [target.name for target in experiment.targets])
        found = {f"{method}.{proxy}.{target}": values for target, values in exact.items()}
        by_method.setdefault(method, {}).update(found)
    for method, columns in by_method.items():
        names = list(columns)[:MOST_COLUMNS]
        if len(names) > 1:
            correlations = rank_correlations([columns[name] for name in names])
            num_rows = len(columns[names[0]])
            over = f"{num_rows:,} calibration rows"
            note = f"Over {over}; chance alone gives ±{1 / math.sqrt(num_rows):.2f}."
            yield Matrix(f"Exact scores, {method}", over, note, names, correlations)


def scored_columns(names: Sequence[str]) -> list[str]:
    """The methods, then METHOD.PROXY.TARGET: without single examples, and not too many."""
    found = [n for n in names if n not in PROVENANCE and not n.endswith("]")]
    # A target may have the name as well, behind its proxy.
    found = [n for n in found if not (n.endswith(f".{PREDICTED}") and n.count(".") == 1)]
    found = sorted(found, key=lambda name: (name.count(".") > 0, not name.endswith(".mix"), name))
    return found[:MOST_COLUMNS]


def _direction_folders(folder: Path, experiment: Experiment) -> Iterator[tuple[str, int, Path]]:
    for method in experiment.estimators:
        for proxy in range(experiment.proxies.num_checkpoints):
            directions = folder / "directions" / method / str(proxy)
            if load_manifest(directions) is not None:
                yield method, proxy, directions


def _shares(names: Sequence[str], sums: np.ndarray) -> list[SourceShare]:
    selected_total, pool_total = max(sums[0].sum(), 1.0), sums[1].sum()
    return [
        SourceShare(
            name=name,
            selected_share=selected_tokens / selected_total,
            pool_share=pool_tokens / pool_total,
            selected_candidates=int(num_selected),
            pool_candidates=int(num_pool),
            mean_score=score / max(num_pool, 1),
        )
        for name, (selected_tokens, pool_tokens, num_selected, num_pool, score) in zip(
            names, sums.T.tolist(), strict=True
        )
    ]


def _length_bins(lengths: np.ndarray) -> list[np.ndarray]:
    """Candidates of about the same length, in equal parts, each of some ten at least."""
    count = min(LENGTH_BINS, max(1, len(lengths) // 10))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)))
    place = np.searchsorted(edges[1:-1], lengths, side="right")
    bins = [np.flatnonzero(place == i) for i in range(len(edges) - 1)]
    return [rows for rows in bins if len(rows)]
