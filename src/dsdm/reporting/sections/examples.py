"""Candidates to look at: grouped, each once, their texts within what a page can hold."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.config import MIX
from dsdm.reporting.section import PAGE_ONLY, section
from dsdm.reporting.sections.agreement import MOST_COLUMNS
from dsdm.reporting.text import cut_to_bytes, page_bytes
from dsdm.reporting.view import RunView
from dsdm.selection import Scores

GROUP_SIZE = 30
SOURCE_EXAMPLES = 300
"""Of all sources together; each source has as many, `GROUP_SIZE` at most, `FEWEST` at least."""
FEWEST = 3
MOST_SOURCES = 40
EXCERPT_CHARACTERS = 300
LONGEST_TEXT_BYTES = 20_000
ALL_TEXT_BYTES = 1_500_000
"""Of all texts in a page together, so that it opens at once."""


@dataclass(frozen=True)
class ShownExample:
    """A candidate with all its scores, NaN where one was not computed."""

    candidate: int
    places: Sequence[tuple[int, int]]
    """Every group that has it, by number, and its rank there. It is shown in the first."""
    id: str
    source: str
    num_tokens: int
    score: float
    selected: bool
    checkpoint_scores: Float[np.ndarray, "checkpoints targets"]
    other_scores: Sequence[float]
    """Of the estimators that did not select."""
    excerpt: str
    text: str = field(metadata=PAGE_ONLY)
    """As much of it as the page holds."""
    is_cut: bool
    """Whether `text` ends before the candidate does."""

    @property
    def first_group(self) -> int:
        """Number of the group that shows it."""
        return self.places[0][0]

    @property
    def target_scores(self) -> list[float]:
        """Means over the checkpoints."""
        known = ~np.isnan(self.checkpoint_scores)
        counts = known.sum(axis=0)
        sums = np.where(known, self.checkpoint_scores, 0).sum(axis=0)
        return [s / n if n else math.nan for s, n in zip(sums.tolist(), counts, strict=True)]


@section("examples", order=80, title="Examples")
def examples(run: RunView) -> dict[str, Any] | None:
    """The best, the worst and those about the cut; the best for each target and of each source."""
    scores = run.scores
    if scores is None:
        return None
    columns = run.score_columns[:MOST_COLUMNS]
    own = {
        (one.checkpoint, one.target): str(one)
        for one in columns
        if one.estimator == scores.method and one.checkpoint is not None
    }
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in own))
    names = [*(target.name for target in run.experiment.targets), MIX]
    targets = [name for name in names if any(name == target for _, target in own)]
    others = [str(o) for o in columns if o.checkpoint is None and o.estimator != scores.method]
    groups = dict(_groups(run, scores, [o for o in columns if str(o) in own.values()]))
    places: dict[int, list[tuple[int, int]]] = {}
    for number, candidates in enumerate(groups.values()):
        for rank, candidate in enumerate(candidates.tolist()):
            places.setdefault(candidate, []).append((number, rank))
    lines, texts = _lines(run, columns, sorted(places)), _texts(run, list(places))
    is_selected = np.isin(list(places), run.selected)
    shown = []
    for candidate, (text, is_cut), selected in zip(places, texts, is_selected, strict=True):
        line = lines[candidate]
        own_scores = [line.get(own.get((c, t), "")) for c in checkpoints for t in targets]
        checkpoint_scores = np.array(own_scores, np.float64)
        excerpt = text[:EXCERPT_CHARACTERS]
        shown.append(
            ShownExample(
                candidate=candidate,
                places=places[candidate],
                id=str(line["id"]),
                source=scores.source_names[scores.sources[candidate]],
                num_tokens=int(scores.num_tokens[candidate]),
                score=float(scores.values[candidate]),
                selected=bool(selected),
                checkpoint_scores=checkpoint_scores.reshape(len(checkpoints), len(targets)),
                other_scores=[math.nan if line[o] is None else line[o] for o in others],
                excerpt=excerpt + ("…" if len(excerpt) < len(text) or is_cut else ""),
                text=text,
                is_cut=is_cut,
            )
        )
    return {
        "checkpoints": checkpoints,
        "targets": targets,
        "other_estimators": others,
        "score_digits": run.score_digits,
        "groups": list(groups),
        "examples": shown,
    }


def _groups(
    run: RunView, scores: Scores, own: Sequence[ScoreColumn]
) -> Iterator[tuple[str, np.ndarray]]:
    """The title of each group and its candidates."""
    order, count = np.argsort(-scores.values, kind="stable"), len(run.selected)
    yield "Best", order[:GROUP_SIZE]
    yield "Worst" if run.is_predicted is None else "Worst, by predictions", order[::-1][:GROUP_SIZE]
    if 0 < count < len(order):
        yield "Just above the cut", order[:count][::-1][:GROUP_SIZE]
        yield "Just below the cut", order[count:][:GROUP_SIZE]
    for target in (target.name for target in run.experiment.targets):
        columns = [run.column(str(one)) for one in own if one.target == target]
        if columns:
            mean = sum(columns) / len(columns)
            yield f"Best for {target}", np.argsort(-mean, kind="stable")[:GROUP_SIZE]
    names, sources = scores.source_names, scores.sources
    if len(names) < 2:
        return
    largest = np.argsort(-np.bincount(sources, scores.num_tokens, len(names)), kind="stable")
    largest = largest[:MOST_SOURCES]
    size = min(GROUP_SIZE, max(FEWEST, SOURCE_EXAMPLES // len(largest)))
    by_source = order[np.argsort(sources[order], kind="stable")]
    ends = np.cumsum(np.bincount(sources, minlength=len(names)))
    for source in largest:
        first = int(ends[source - 1]) if source else 0
        yield f"Best of {names[source]}", by_source[first : int(ends[source])][:size]


def _lines(
    run: RunView, columns: Sequence[ScoreColumn], candidates: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """The lines of some candidates in the scores table, one row group in memory at a time."""
    found: dict[int, dict[str, Any]] = {}
    first, names = 0, ["candidate", "id", *map(str, columns)]
    with pq.ParquetFile(run.scores_path) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = [c - first for c in candidates if first <= c < first + count]
            if wanted:
                lines = file.read_row_group(group, columns=names).take(wanted).to_pylist()
                found |= {line["candidate"]: line for line in lines}
            first += count
    return found


def _texts(run: RunView, candidates: Sequence[int]) -> list[tuple[str, bool]]:
    """The text of each candidate, and whether it is cut."""
    # A token has a byte at least, but for a few that stand for nothing.
    tokens = [run.examples.tokens_of(candidate) for candidate in candidates]
    starts = [run.tokenizer.decode(one[:LONGEST_TEXT_BYTES]) for one in tokens]
    return [
        (text, text != start or len(one) > LONGEST_TEXT_BYTES)
        for one, start, text in zip(tokens, starts, fit_texts(starts), strict=True)
    ]


def fit_texts(
    texts: Sequence[str], longest: int = LONGEST_TEXT_BYTES, total: int = ALL_TEXT_BYTES
) -> list[str]:
    """The texts, each cut to `longest` bytes of the page and further if all exceed `total`."""
    texts = [cut_to_bytes(text[:longest], longest) for text in texts]
    limit = fair_limit([page_bytes(text) for text in texts], total)
    return [cut_to_bytes(text, limit) for text in texts]


def fair_limit(sizes: Sequence[int], total: int) -> int:
    """The largest limit with which all sizes, each cut to it, sum to `total` at most."""
    left = total
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)
