"""The candidates that the report shows: which, and what the scores file says of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from dsdm.data.examples import load_examples
from dsdm.data.tokenizer import load_tokenizer
from dsdm.datamodel.config import MIX
from dsdm.pipeline.report_scores import ScoredPool, scored_columns
from dsdm.report.examples import (
    EXCERPT_CHARACTERS,
    LONGEST_TEXT_BYTES,
    ExampleGroup,
    ExamplesBrowser,
    ShownExample,
    fit_texts,
)

GROUP_SIZE = 30
SOURCE_EXAMPLES = 300
"""Of all sources together; each source has as many, `GROUP_SIZE` at most, `FEWEST` at least."""
FEWEST = 3
MOST_SOURCES = 40


@dataclass(frozen=True)
class Record:
    """One line of the scores file; scores are NaN where there is no such column."""

    id: str
    proxy_scores: Float[np.ndarray, "proxies targets"]
    other_scores: Sequence[float]


@dataclass(frozen=True)
class Columns:
    """The scores file's columns for the selecting method, and for the others."""

    method: str
    proxies: Sequence[str]
    targets: Sequence[str]
    """The mix last."""
    other_methods: Sequence[str]
    names: Sequence[str]

    def of_target(self, target: str) -> list[str]:
        """A column for each proxy that scored `target`."""
        wanted = [f"{self.method}.{proxy}.{target}" for proxy in self.proxies]
        return [name for name in wanted if name in self.names]


def examples_browser(pool: ScoredPool) -> ExamplesBrowser:
    """The best, the worst and those about the cut; the best for each target and of each source."""
    columns = _columns(pool)
    groups = list(_groups(pool, columns))
    candidates = list(dict.fromkeys(c for group in groups for c in group.candidates))
    records = _records(pool.path, columns, sorted(candidates))
    texts = _texts(pool, candidates)
    shown = [
        _shown(pool, candidate, records[candidate], *text)
        for candidate, text in zip(candidates, texts, strict=True)
    ]
    return ExamplesBrowser(columns.proxies, columns.targets, columns.other_methods, groups, shown)


def _columns(pool: ScoredPool) -> Columns:
    method, found = pool.scores.method, scored_columns(pq.read_schema(pool.path))
    own = [one for one in found if one.estimator == method and one.checkpoint is not None]
    scored = {one.target for one in own}
    targets = [*(target.name for target in pool.experiment.targets), MIX]
    return Columns(
        method,
        [str(number) for number in sorted({one.checkpoint or 0 for one in own})],
        [target for target in targets if target in scored],
        [one.estimator for one in found if one.checkpoint is None and one.estimator != method],
        [str(one) for one in found],
    )


def _groups(pool: ScoredPool, columns: Columns) -> Iterator[ExampleGroup]:
    order = np.argsort(-pool.scores.values, kind="stable")
    count = int(pool.selected.sum())
    worst = "Worst, by predictions" if pool.is_screened else "Worst"
    ranked = {"Best": order[:GROUP_SIZE], worst: order[::-1][:GROUP_SIZE]}
    if 0 < count < len(order):
        ranked["Just above the cut"] = order[:count][::-1][:GROUP_SIZE]
        ranked["Just below the cut"] = order[count:][:GROUP_SIZE]
    for title, candidates in ranked.items():
        yield ExampleGroup(title, "rank", candidates.tolist())
    for target in columns.targets:
        names = columns.of_target(target)
        if target != MIX and names:
            mean = sum(pool.column(name) for name in names) / len(names)
            best = np.argsort(-mean, kind="stable")[:GROUP_SIZE]
            yield ExampleGroup(f"Best for {target}", "target", best.tolist())
    yield from _source_groups(pool, order)


def _source_groups(pool: ScoredPool, order: np.ndarray) -> Iterator[ExampleGroup]:
    """The best of each source, the largest sources first."""
    names, sources = pool.scores.source_names, pool.scores.sources
    if len(names) < 2:
        return
    largest = np.argsort(-np.bincount(sources, pool.num_tokens, len(names)), kind="stable")
    largest = largest[:MOST_SOURCES]
    size = min(GROUP_SIZE, max(FEWEST, SOURCE_EXAMPLES // len(largest)))
    by_source = order[np.argsort(sources[order], kind="stable")]
    ends = np.cumsum(np.bincount(sources, minlength=len(names)))
    for source in largest:
        first = int(ends[source - 1]) if source else 0
        best = by_source[first : int(ends[source])][:size]
        yield ExampleGroup(f"Best of {names[source]}", "source", best.tolist())


def _records(path: Path, columns: Columns, candidates: Sequence[int]) -> dict[int, Record]:
    """The lines of some candidates, one row group in memory at a time."""
    found: dict[int, Record] = {}
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = [c for c in candidates if first <= c < first + count]
            if wanted:
                table = file.read_row_group(group, columns=["candidate", "id", *columns.names])
                for line in table.take([c - first for c in wanted]).to_pylist():
                    found[line["candidate"]] = _record(line, columns)
            first += count
    return found


def _record(line: dict[str, object], columns: Columns) -> Record:
    def score(name: str) -> float:
        value = line.get(name)
        return float(value) if isinstance(value, float) else math.nan

    by_proxy = [
        [score(f"{columns.method}.{proxy}.{target}") for target in columns.targets]
        for proxy in columns.proxies
    ]
    proxy_scores = np.array(by_proxy, np.float64).reshape(
        len(columns.proxies), len(columns.targets)
    )
    return Record(str(line["id"]), proxy_scores, [score(name) for name in columns.other_methods])


def _texts(pool: ScoredPool, candidates: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """The text of each candidate, and whether it is cut."""
    folders = sorted((pool.folder / "examples").glob("[0-9]*"))
    examples = load_examples(folders, pool.experiment.examples.unit)
    tokenizer = load_tokenizer(pool.folder / "tokenizer")
    # A token has a byte at least, but for a few that stand for nothing.
    starts = [
        tokenizer.decode(examples.tokens_of(candidate)[:LONGEST_TEXT_BYTES])
        for candidate in candidates
    ]
    for candidate, start, text in zip(candidates, starts, fit_texts(starts), strict=True):
        is_all = text == start and pool.num_tokens[candidate] <= LONGEST_TEXT_BYTES
        yield text, not is_all


def _shown(
    pool: ScoredPool, candidate: int, record: Record, text: str, is_cut: bool
) -> ShownExample:
    excerpt = text[:EXCERPT_CHARACTERS]
    return ShownExample(
        candidate=candidate,
        id=record.id,
        source=pool.scores.source_names[pool.scores.sources[candidate]],
        num_tokens=int(pool.num_tokens[candidate]),
        score=float(pool.scores.values[candidate]),
        selected=bool(pool.selected[candidate]),
        proxy_scores=record.proxy_scores,
        other_scores=record.other_scores,
        excerpt=excerpt + ("…" if len(excerpt) < len(text) or is_cut else ""),
        text=text,
        is_cut=is_cut,
    )
