"""Scores files: reading one column of scores, and writing the chosen lines."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsdm.errors import ArtifactError
from dsdm.selection.scores import Scores

ROWS = 1 << 16
"""Lines that are read at once."""
REPEATED = ("source", "file")
"""Columns of text with few values, which are stored and read as codes."""


def storage(schema: pa.Schema) -> dict[str, Any]:
    """Options of `ParquetWriter` for a scores file, which make it small and quick to read.

    Whole numbers and ids are stored as differences from the line before; pyarrow's own choice
    takes ten times as long to read.
    """
    encodings = {}
    for field in schema:
        if pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_string(field.type) and field.name not in REPEATED:
            encodings[field.name] = "DELTA_BYTE_ARRAY"
    repeated = [name for name in REPEATED if name in schema.names]
    return {"use_dictionary": repeated or False, "column_encoding": encodings or None}


def load_scores(
    paths: Sequence[Path], method: str, fingerprint: str = "", *, with_sources: bool = True
) -> Scores:
    """The scores in one column of a scores file, or of several as of one.

    Args:
        paths: The files, in order.
        method: Name of the column.
        fingerprint: Identifies what was scored and how.
        with_sources: Whether sources are read too: 4 bytes a candidate beside 8.

    Raises:
        ArtifactError: a file is damaged or lacks the column.
    """
    count = sum(_num_lines(path) for path in paths)
    values, num_tokens = np.empty(count, np.float32), np.empty(count, np.int32)
    sources = np.empty(count if with_sources else 0, np.int32)
    names: dict[str, int] = {} if with_sources else {"": 0}
    columns, first = ["num_tokens", method, *(["source"] if with_sources else [])], 0
    for path in paths:
        for batch in _batches(path, columns, None):
            here = slice(first, first + len(batch))
            values[here] = batch[method].to_numpy()
            num_tokens[here] = batch["num_tokens"].to_numpy()
            if with_sources:
                source = batch["source"]
                own_names = source.dictionary.to_pylist()
                codes = np.array([names.setdefault(name, len(names)) for name in own_names])
                sources[here] = codes[source.indices.to_numpy()]
            first += len(batch)
    return Scores(values, num_tokens, sources, tuple(names), method, "mix", fingerprint)


def write_chosen(
    paths: Sequence[Path], columns: Sequence[str], method: str, is_chosen: np.ndarray, out: Path
) -> None:
    """Writes the chosen lines of a scores file, or of several as of one, to `out`.

    In the column `candidate` later files go on counting where those before them end.

    Args:
        paths: The files, in order, all with the same types of columns.
        columns: Those that are copied.
        method: Name of the column that is copied as `score`.
        is_chosen: Of each line of all files, bool.
        out: The Parquet file to write.

    Raises:
        ArtifactError: a scores file is damaged or lacks a column.
    """
    schema = pq.read_schema(paths[0])
    fields = [schema.field(name) for name in columns]
    fields.append(schema.field(method).with_name("score"))
    first = 0
    with pq.ParquetWriter(out, pa.schema(fields), **storage(pa.schema(fields))) as writer:
        for path in paths:
            end = first + _num_lines(path)
            groups, kept = _groups_with_chosen(path, is_chosen[first:end])
            line = 0
            for batch in _batches(path, [*columns, method], groups):
                lines = batch.filter(pa.array(kept[line : line + len(batch)]))
                line += len(batch)
                table = pa.Table.from_batches([lines]).rename_columns(writer.schema.names)
                if first and "candidate" in columns:
                    number = columns.index("candidate")
                    counted = pc.add(table["candidate"], first)
                    table = table.set_column(number, "candidate", counted)
                writer.write_table(table.cast(writer.schema))
            first = end


def _num_lines(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: scores can't be read ({error}).") from error


def _batches(
    path: Path, columns: Sequence[str], groups: list[int] | None
) -> Iterator[pa.RecordBatch]:
    repeated = [name for name in REPEATED if name in columns]
    try:
        with pq.ParquetFile(path, read_dictionary=repeated) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise ArtifactError(f"{path}: it has no column {missing[0]!r}.")
            # The order of the columns is the file's.
            for batch in _ahead(file.iter_batches(ROWS, groups, list(columns))):
                yield batch.select(list(columns))
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: scores can't be read ({error}).") from error


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same, the next one read while one is worked on."""
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = executor.submit(next, batches, None)
            yield batch


def _groups_with_chosen(path: Path, is_chosen: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Row groups that hold a chosen line, and `is_chosen` of their lines."""
    metadata = pq.read_metadata(path)
    ends = np.cumsum([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)])
    parts = np.split(is_chosen, ends[:-1])
    groups = [number for number, part in enumerate(parts) if part.any()]
    return groups, np.concatenate([parts[number] for number in groups] or [is_chosen[:0]])
