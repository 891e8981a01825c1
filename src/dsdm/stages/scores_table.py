"""The scores file: one line a candidate, with where it is from and what every method says of it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from dsdm.data.examples import Examples, Shard
from dsdm.datamodel.config import MIX, TRAITS
from dsdm.datamodel.shrinkage import GroupMoments, shrunk
from dsdm.errors import ArtifactError
from dsdm.selection.score_files import storage

SCORES = "scores.parquet"
PROVENANCE = ("candidate", "id", "source", "file", "file_row", "num_tokens")
BETWEEN, WITHIN = " between groups", " within groups"
"""Behind a method's name: its scores that count at that level. No column of a file."""
PREDICTED = "predicted"
"""METHOD.predicted: whether a screening left a candidate with what it predicts of it."""


@dataclass(frozen=True)
class Combination:
    """How a method's columns become one score."""

    points: Float[np.ndarray, " points"]
    """What each proxy, or checkpoint of one, counts for, together 1."""
    targets: Mapping[str, float]
    """What each target counts for in the mix."""

    def score(self, method: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The method's score: for the mix, or, of what is no slope, for its best target."""
        if TRAITS[method].is_slope:
            return self.mean(method, MIX, columns)
        counted = [target for target, weight in self.targets.items() if weight > 0]
        means = [self.mean(method, target, columns) for target in counted]
        return np.asarray(np.max(means, axis=0))

    def mean(self, method: str, target: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean of a method's scores for one target over all points."""
        values = [columns[f"{method}.{i}.{target}"] for i in range(len(self.points))]
        # What a checkpoint counts for is in the directions of a training.
        if TRAITS[method].of_training or len(set(self.points.tolist())) == 1:
            return np.asarray(np.mean(values, axis=0))
        return np.asarray(np.average(values, axis=0, weights=self.points))


def write_scores(
    examples: Examples,
    shard: Shard,
    row_scores: Mapping[str, np.ndarray],
    path: Path,
    combine: Combination,
    is_predicted: Bool[np.ndarray, " rows"] | None = None,
) -> int:
    """Writes one line for each candidate of `shard`, streaming; returns the number of lines.

    Columns: provenance; each METHOD, what its proxies' scores are combined to; each
    METHOD.PROXY.TARGET, in units of that direction's spread; and METHOD.predicted of a screened
    pool.

    Args:
        examples: The pool.
        shard: The part of it that was scored.
        row_scores: Scores of the shard's rows, by METHOD.PROXY.TARGET.
        path: The Parquet file to write.
        combine: The proxies' scores to one.
        is_predicted: The rows that are not scored but predicted; None where the pool is not
            screened.
    """
    tables = (
        _with_scores(table, shard, rows, row_scores, combine, is_predicted)
        for rows, table in examples.read_candidates(shard)
    )
    return _write_tables(tables, path)


def write_candidate_scores(examples: Examples, scores: Mapping[str, np.ndarray], path: Path) -> int:
    """Writes one line for each candidate of the pool: provenance, and each method's score."""

    def tables() -> Iterator[pa.Table]:
        for shard in examples.shards:
            for _, table in examples.read_candidates(shard):
                numbers = table["candidate"].to_numpy()
                found = [pa.array(values[numbers], pa.float32()) for values in scores.values()]
                yield pa.table([*table.columns, *found], [*table.column_names, *scores])

    return _write_tables(tables(), path)


def _with_scores(
    table: pa.Table,
    shard: Shard,
    rows: slice,
    row_scores: Mapping[str, np.ndarray],
    combine: Combination,
    is_predicted: Bool[np.ndarray, " rows"] | None,
) -> pa.Table:
    lengths = shard.lengths[rows]
    candidates = np.arange(len(table))
    if shard.unit == "document":
        candidates = shard.rows["document"][rows] + shard.first_document
        candidates = candidates - table["candidate"][0].as_py() if len(table) else candidates
    columns = {
        name: candidate_means(values[rows], lengths, candidates, len(table))
        for name, values in row_scores.items()
    }
    methods = dict.fromkeys(name.split(".", 1)[0] for name in columns)
    combined = {method: combine.score(method, columns) for method in methods}
    for name, values in (combined | columns).items():
        table = table.append_column(name, pa.array(values.astype(np.float32)))
    if is_predicted is None:
        return table
    # A candidate's rows are all scored or all predicted.
    flags = np.zeros(len(table), bool)
    flags[candidates[is_predicted[rows]]] = True
    for method in methods:
        table = table.append_column(f"{method}.{PREDICTED}", pa.array(flags))
    return table


def candidate_means(
    values: np.ndarray, lengths: np.ndarray, candidates: np.ndarray, num_candidates: int
) -> Float[np.ndarray, " candidates"]:
    """The mean of each candidate's rows, weighted by their predictions; 0 without any row.

    Args:
        values: One for each row.
        lengths: Tokens in each row, of which n have n - 1 predictions.
        candidates: The candidate that each row belongs to, counted from 0.
        num_candidates: How many there are.
    """
    weights = np.maximum(lengths - 1, 1).astype(np.float64)
    total = np.bincount(candidates, weights, num_candidates)
    sums = np.bincount(candidates, values * weights, num_candidates)
    return np.divide(sums, total, out=np.zeros(num_candidates), where=total > 0)


@dataclass(frozen=True)
class Levels:
    """Which proxies, or checkpoints of one, say what a group is worth, and which what is in it."""

    between: Float[np.ndarray, " points"]
    """What each counts for in the means of groups, together 1."""
    within: Float[np.ndarray, " points"]
    """The same for the differences from them."""

    def columns(self, method: str, target: str) -> list[str]:
        """Those of a method's scores for one target, a point each."""
        return [f"{method}.{i}.{target}" for i in range(len(self.between))]

    def combined(self, method: str, target: str, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """A method's scores for one target between and within groups, before they are drawn."""
        points = [table[name].to_numpy() for name in self.columns(method, target)]
        between, within = (
            np.average(points, axis=0, weights=weights) for weights in (self.between, self.within)
        )
        return between, within


@dataclass(frozen=True)
class Shrinkage:
    """How scores are drawn towards the means of their groups when they are merged."""

    by_method: Mapping[str, float]
    """How far, of 1, for each method that is drawn at all."""
    group: Int[np.ndarray, " candidates"]
    """The group of each candidate of the pool."""
    is_counted: Bool[np.ndarray, " candidates"]
    """Whose scores the means are of: not those of candidates that are dropped."""
    levels: Levels | None = None
    """None: what combines points combines their groups' means too."""

    @cached_property
    def num_groups(self) -> int:
        """Groups up to the last that a candidate is in."""
        return int(self.group.max(initial=0)) + 1

    def of(self, column: str) -> float:
        """How far the scores in a column are drawn."""
        method, _, rest = column.partition(".")
        return 0.0 if rest == PREDICTED else self.by_method.get(method, 0.0)


def merge_scores(
    shards: Sequence[Sequence[Path]], path: Path, shrinkage: Shrinkage | None = None
) -> int:
    """Writes all score files as one, streaming; returns the number of lines.

    Args:
        shards: For each shard in order, the folder of each method.
        path: The Parquet file to write: provenance, each METHOD, each METHOD.PROXY.TARGET.
        shrinkage: How far scores are drawn towards the means of their groups; None: not at all.
    """

    def tables() -> Iterator[pa.Table]:
        # Nothing was scored of a shard without candidates, so its file names no method.
        return (table for folders in shards for table in _read_beside(folders) if len(table))

    # Drawn to one point, candidates keep their order: then they keep their scores.
    if shrinkage is None or not (shrinkage.group.any() or shrinkage.levels):
        return _write_tables(tables(), path)
    means = _group_means((folder for folders in shards for folder in folders), shrinkage)
    return _write_tables((_shrunk(table, shrinkage, means) for table in tables()), path)


def _group_means(
    folders: Iterable[Path], shrinkage: Shrinkage
) -> dict[str, Float[np.ndarray, " groups"]]:
    """By column, what the scores of each group are drawn towards."""
    moments: dict[str, GroupMoments] = {}
    for table in (table for folder in folders for table in _read(folder / SCORES, shrinkage.of)):
        candidates = table["candidate"].to_numpy()
        is_counted, group = shrinkage.is_counted[candidates], shrinkage.group[candidates]
        for name, values in _undrawn(table, shrinkage).items():
            of_column = moments.setdefault(name, GroupMoments(shrinkage.num_groups))
            of_column.add(group[is_counted], values[is_counted])
    return {name: of_column.means() for name, of_column in moments.items()}


def _undrawn(table: pa.Table, shrinkage: Shrinkage) -> dict[str, np.ndarray]:
    """The columns that are drawn, as they were scored, and what a method says at each level."""
    columns = {name: table[name].to_numpy() for name in filter(shrinkage.of, table.column_names)}
    if shrinkage.levels is not None:
        for method in set(columns) & set(shrinkage.by_method):
            between, within = shrinkage.levels.combined(method, MIX, table)
            columns |= {method + BETWEEN: between, method + WITHIN: within}
    return columns


def _shrunk(
    table: pa.Table, shrinkage: Shrinkage, means: Mapping[str, Float[np.ndarray, " groups"]]
) -> pa.Table:
    group, columns = shrinkage.group[table["candidate"].to_numpy()], _undrawn(table, shrinkage)
    for name in filter(shrinkage.of, table.column_names):
        within = name + WITHIN if name + WITHIN in columns else name
        worth = means.get(name + BETWEEN)
        values = shrunk(columns[within], group, means[within], shrinkage.of(name), worth)
        number = table.column_names.index(name)
        table = table.set_column(number, name, pa.array(values.astype(np.float32)))
    return table


def shrunk_at_levels(
    folders: Sequence[Path], method: str, target: str, shrinkage: Shrinkage
) -> Float[np.ndarray, " candidates"]:
    """A method's scores for one target, drawn as `merge_scores` draws those for the mix.

    Args:
        folders: The method's folder of each shard in order.
        method: What scored them, drawn by `shrinkage`.
        target: One that was scored by itself.
        shrinkage: With `levels`.
    """
    levels = shrinkage.levels
    assert levels is not None
    wanted = set(levels.columns(method, target)).__contains__
    tables = (table for folder in folders for table in _read(folder / SCORES, wanted) if len(table))
    both = np.concatenate([levels.combined(method, target, table) for table in tables], axis=1)
    group, is_counted = shrinkage.group, shrinkage.is_counted
    means = []
    for scores in both:
        moments = GroupMoments(shrinkage.num_groups)
        moments.add(group[is_counted], scores[is_counted])
        means.append(moments.means())
    worth, means_within = means
    return shrunk(both[1], group, means_within, shrinkage.of(method), worth)


def _read_beside(folders: Sequence[Path]) -> Iterator[pa.Table]:
    """The lines of several methods' files on the same candidates, block by block."""
    for tables in zip(*(_read(folder / SCORES) for folder in folders), strict=True):
        first = tables[0].select(list(PROVENANCE))
        if any(
            not table.select(["candidate"]).equals(first.select(["candidate"])) for table in tables
        ):
            raise ArtifactError(
                f"{folders[0]}: other candidates than in {folders[-1]}. Redo scores."
            )
        names = [name for table in tables for name in table.column_names[len(PROVENANCE) :]]
        # A column of a method's own name has no dot and comes before those of its proxies.
        names.sort(key=lambda name: "." in name)
        columns = {name: table[name] for table in tables for name in table.column_names}
        yield pa.table([*first.columns, *(columns[name] for name in names)], [*PROVENANCE, *names])


def _read(path: Path, wanted: Callable[[str], object] | None = None) -> Iterator[pa.Table]:
    """A file's lines block by block; with `wanted`, `candidate` and the columns it is true of."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = names if wanted is None else ["candidate", *filter(wanted, names)]
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def _write_tables(tables: Iterable[pa.Table], path: Path) -> int:
    num_lines = 0
    with contextlib.ExitStack() as stack:
        writer = None
        for table in tables:
            writer = writer or stack.enter_context(
                pq.ParquetWriter(path, table.schema, **storage(table.schema))
            )
            if not table.schema.equals(writer.schema):
                raise ArtifactError(f"{path}: its parts have different columns. Redo scores.")
            writer.write_table(table)
            # What the allocator keeps for the next block would grow with the number of blocks.
            pa.default_memory_pool().release_unused()
            num_lines += len(table)
    return num_lines
