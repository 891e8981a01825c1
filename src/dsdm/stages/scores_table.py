"""The scores file: one line a candidate, with where it is from and every column of scores."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from dsdm.artifacts import write_json
from dsdm.data.examples import Examples, Shard
from dsdm.datamodel.columns import ScoreColumn, append_columns, score_columns, score_field
from dsdm.datamodel.config import MIX
from dsdm.datamodel.groups import (
    CheckpointWeights,
    GroupMoments,
    checkpoint_mean,
    shrunk,
    shrunk_split,
    weighted_means,
)
from dsdm.errors import ArtifactError
from dsdm.selection.score_files import storage

SCORES = "scores.parquet"
MEANS = "group_means.json"
"""File beside a table: what its columns are shrunk towards in each group."""
PROVENANCE = ("candidate", "id", "source", "file", "file_row", "num_tokens")
Weights = Float[np.ndarray, " checkpoints"] | None
"""What each checkpoint counts for in a combined score, together 1; None: all the same."""


def write_scores(
    examples: Examples,
    shard: Shard,
    row_scores: Mapping[ScoreColumn, np.ndarray],
    path: Path,
    weights: Mapping[str, Weights],
    is_predicted: Bool[np.ndarray, " rows"] | None = None,
) -> int:
    """Writes one line for each candidate of `shard`, streaming; returns the number of lines.

    Columns: provenance; each estimator's score for the mix, combined over checkpoints; its scores
    at each checkpoint; and of a screened pool whether they are predicted.

    Args:
        examples: The pool.
        shard: The part of it that was scored.
        row_scores: Scores of the shard's rows at each checkpoint.
        path: The Parquet file to write.
        weights: By estimator.
        is_predicted: The rows that are not scored but predicted; None where the pool is not
            screened.
    """

    def tables() -> Iterator[pa.Table]:
        for rows, table in examples.read_candidates(shard):
            candidates = np.arange(len(table))
            if shard.unit == "document":
                first = table["candidate"][0].as_py() if len(table) else 0
                candidates = shard.rows["document"][rows] + shard.first_document - first
            lengths = shard.lengths[rows]
            columns = {
                column: candidate_means(values[rows], lengths, candidates, len(table))
                for column, values in row_scores.items()
            }
            scored = list(dict.fromkeys(column.estimator for column in columns))
            combined = {
                ScoreColumn(name): checkpoint_mean(
                    [v for c, v in columns.items() if (c.estimator, c.target) == (name, MIX)],
                    weights[name],
                )
                for name in scored
            }
            found = {c: pa.array(v.astype(np.float32)) for c, v in (combined | columns).items()}
            if is_predicted is not None:
                # A candidate's rows are all scored or all predicted.
                flags = np.zeros(len(table), bool)
                flags[candidates[is_predicted[rows]]] = True
                found |= {ScoreColumn(name, predicted=True): pa.array(flags) for name in scored}
            yield append_columns(table, found.items())

    return _write_tables(tables(), path)


def write_candidate_scores(
    examples: Examples, scores: Mapping[ScoreColumn, np.ndarray], path: Path
) -> int:
    """Writes one line for each candidate of the pool: provenance and scores."""

    def tables() -> Iterator[pa.Table]:
        for shard in examples.shards:
            for _, table in examples.read_candidates(shard):
                numbers = table["candidate"].to_numpy()
                found = ((c, pa.array(v[numbers], pa.float32())) for c, v in scores.items())
                yield append_columns(table, found)

    return _write_tables(tables(), path)


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
    predictions = np.maximum(lengths - 1, 1).astype(np.float64)
    return weighted_means(values, predictions, candidates, num_candidates)


@dataclass(frozen=True)
class Shrinkage:
    """How scores are shrunk towards the means of their groups when they are merged."""

    by_estimator: Mapping[str, float]
    """How far, of 1, for each estimator that is shrunk at all."""
    group: Int[np.ndarray, " candidates"]
    """The group of each candidate of the pool."""
    is_counted: Bool[np.ndarray, " candidates"]
    """Whose scores the means are of: not those of candidates that are dropped."""
    weights: CheckpointWeights | None = None
    """None: the means of groups are those of the combined scores."""

    def of(self, column: ScoreColumn) -> float:
        """How far the scores in a column are shrunk."""
        return 0.0 if column.predicted else self.by_estimator.get(column.estimator, 0.0)


def merge_scores(
    shards: Sequence[Sequence[Path]],
    path: Path,
    shrinkage: Shrinkage | None = None,
    means_from: Path | None = None,
) -> int:
    """Writes all score files as one, streaming; returns the number of lines.

    Args:
        shards: For each shard in order, the folder of each estimator.
        path: The Parquet file to write.
        shrinkage: How far scores are shrunk towards the means of their groups; None: not at all.
        means_from: The folder of a table that this wrote, whose means are taken; None: those of
            these scores, which are written beside the table.
    """

    def tables() -> Iterator[pa.Table]:
        # Nothing was scored of a shard without candidates, so its file has no scores.
        return (table for folders in shards for table in _read_beside(folders) if len(table))

    if means_from is not None:
        if shrinkage is None or not (means_from / MEANS).exists():
            return _write_tables(tables(), path)
        found = _load_means(means_from / MEANS)
        return _write_tables((_with_shrunk(table, shrinkage, found) for table in tables()), path)
    # Shrunk to one point, candidates keep their order: then they keep their scores.
    if shrinkage is None or not (shrinkage.group.any() or shrinkage.weights):
        return _write_tables(tables(), path)
    size = int(shrinkage.group.max(initial=0)) + 1
    moments: dict[_Shrunk, GroupMoments] = {}
    for folder in (folder for folders in shards for folder in folders):
        for table in _read(folder / SCORES, shrinkage.of):
            candidates = table["candidate"].to_numpy()
            is_counted, group = shrinkage.is_counted[candidates], shrinkage.group[candidates]
            for key, values in _to_shrink(table, shrinkage).items():
                seen = moments.setdefault(key, GroupMoments(size))
                seen.add(group[is_counted], values[is_counted])
    means = {key: seen.means() for key, seen in moments.items()}
    _save_means(means, moments, path.with_name(MEANS))
    return _write_tables((_with_shrunk(table, shrinkage, means) for table in tables()), path)


@dataclass(frozen=True)
class _Shrunk:
    """A column that is shrunk, or those that give its groups' means in its place."""

    column: ScoreColumn
    gives_means: bool = False


def _save_means(
    means: Mapping[_Shrunk, np.ndarray], moments: Mapping[_Shrunk, GroupMoments], path: Path
) -> None:
    """Writes the means of groups, and behind them the mean of all, for groups not among them."""
    content = [
        {
            "column": asdict(key.column),
            "gives_means": key.gives_means,
            "means": [*means[key].tolist(), moments[key].mean()],
        }
        for key in means
    ]
    write_json(path, content)


def _load_means(path: Path) -> dict[_Shrunk, np.ndarray]:
    return {
        _Shrunk(ScoreColumn(**one["column"]), one["gives_means"]): np.array(one["means"])
        for one in json.loads(path.read_text(encoding="utf-8"))
    }


def _to_shrink(table: pa.Table, shrinkage: Shrinkage) -> dict[_Shrunk, np.ndarray]:
    """The scores that are shrunk, as they are, and those that give other means of groups."""
    found = {}
    for column in filter(shrinkage.of, score_columns(table.schema)):
        found[_Shrunk(column)] = table[str(column)].to_numpy()
        if shrinkage.weights is not None and column.checkpoint is None:
            of_means, within = _split(table, column, shrinkage.weights)
            found |= {_Shrunk(column): within, _Shrunk(column, gives_means=True): of_means}
    return found


def _split(
    table: pa.Table, column: ScoreColumn, weights: CheckpointWeights
) -> tuple[np.ndarray, np.ndarray]:
    each = [replace(column, checkpoint=number) for number in range(len(weights.means))]
    return weights.split([table[str(one)].to_numpy() for one in each])


def _with_shrunk(
    table: pa.Table, shrinkage: Shrinkage, means: Mapping[_Shrunk, Float[np.ndarray, " groups"]]
) -> pa.Table:
    groups, found = shrinkage.group[table["candidate"].to_numpy()], _to_shrink(table, shrinkage)
    for column in filter(shrinkage.of, score_columns(table.schema)):
        group = np.minimum(groups, len(means[_Shrunk(column)]) - 1)
        key, other = _Shrunk(column), means.get(_Shrunk(column, gives_means=True))
        values = shrunk(found[key], group, means[key], shrinkage.of(column), other)
        number = table.column_names.index(str(column))
        field = score_field(column, pa.float32())
        table = table.set_column(number, field, pa.array(values.astype(np.float32)))
    return table


def shrunk_for_target(
    folders: Sequence[Path], column: ScoreColumn, shrinkage: Shrinkage
) -> Float[np.ndarray, " candidates"]:
    """An estimator's scores for one target, shrunk as `merge_scores` shrinks those for the mix.

    Args:
        folders: The estimator's folder of each shard in order.
        column: The estimator and a target that was scored by itself.
        shrinkage: With `weights`.
    """
    weights = shrinkage.weights
    assert weights is not None

    def wanted(one: ScoreColumn) -> bool:
        return (one.estimator, one.target) == (column.estimator, column.target)

    tables = (table for folder in folders for table in _read(folder / SCORES, wanted) if len(table))
    of_means, within = np.concatenate([_split(table, column, weights) for table in tables], axis=1)
    by = shrinkage.of(column)
    return shrunk_split(of_means, within, shrinkage.group, shrinkage.is_counted, by)


def _read_beside(folders: Sequence[Path]) -> Iterator[pa.Table]:
    """The lines of several estimators' files on the same candidates, block by block."""
    for tables in zip(*(_read(folder / SCORES) for folder in folders), strict=True):
        first = tables[0].select(list(PROVENANCE))
        if any(
            not table.select(["candidate"]).equals(first.select(["candidate"])) for table in tables
        ):
            raise ArtifactError(
                f"{folders[0]}: other candidates than in {folders[-1]}. Redo scores."
            )
        found = [(column, table) for table in tables for column in score_columns(table.schema)]
        # What selects comes before what it is combined of.
        found.sort(key=lambda pair: pair[0].checkpoint is not None or pair[0].predicted)
        yield append_columns(first, ((column, table[str(column)]) for column, table in found))


def _read(path: Path, wanted: Callable[[ScoreColumn], object] | None = None) -> Iterator[pa.Table]:
    """A file's lines block by block; with `wanted`, `candidate` and the columns it is true of."""
    with pq.ParquetFile(path) as file:
        names = None
        if wanted is not None:
            found = filter(wanted, score_columns(file.schema_arrow))
            names = ["candidate", *map(str, found)]
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=names)


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
