"""The chosen rows of a pool file as they were, with all their columns."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dsdm.data.pool import PoolConfig, PoolFile, pool_error
from dsdm.data.readers import BATCH_BYTES, Fields, checked, read_batches, read_parsed_lines

BATCH_ROWS = 4096


def read_original_rows(
    file: PoolFile, config: PoolConfig, file_rows: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The rows of `file` at `file_rows` (sorted, unique), in batches of one schema.

    Raises:
        DataError: the file is damaged, or has changed since it was packed.
    """
    if file.format in ("jsonl", "text"):
        yield from _read_lines(file, config, file_rows)
        return
    num_found = 0
    for first_row, batch in checked(file, read_batches(file)):
        stop = int(np.searchsorted(file_rows, first_row + batch.num_rows))
        if stop > num_found:
            yield batch.take(pa.array(file_rows[num_found:stop] - first_row))
            num_found = stop
        if num_found == len(file_rows):
            return
    _check_found(file, num_found, file_rows)


def _read_lines(
    file: PoolFile, config: PoolConfig, file_rows: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Lines of JSON have no schema: the first pass finds one that holds all, the second reads."""
    types: dict[str, pa.DataType | None] = {}
    for records in _record_batches(file, config, file_rows):
        for name in dict.fromkeys(name for record in records for name in record):
            found = _type_of([record.get(name) for record in records])
            types[name] = _join_types(types[name], found) if name in types else found
    stored = {name: _stored_type(type) for name, type in types.items()}
    for records in _record_batches(file, config, file_rows):
        columns = {
            name: _column([record.get(name) for record in records], type)
            for name, type in stored.items()
        }
        yield pa.record_batch(columns)


def _record_batches(
    file: PoolFile, config: PoolConfig, file_rows: np.ndarray
) -> Iterator[list[Fields]]:
    records: list[Fields] = []
    num_found = num_bytes = 0
    for row, num_line_bytes, record in read_parsed_lines(file, config):
        if num_found == len(file_rows):
            break
        if row != file_rows[num_found] or not isinstance(record, dict):
            continue
        records.append({name: _plain(value) for name, value in record.items()})
        num_found += 1
        num_bytes += num_line_bytes
        if len(records) == BATCH_ROWS or num_bytes >= BATCH_BYTES:
            yield records
            records, num_bytes = [], 0
    _check_found(file, num_found, file_rows)
    if records:
        yield records


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _check_found(file: PoolFile, num_found: int, file_rows: np.ndarray) -> None:
    if num_found < len(file_rows):
        raise pool_error(
            f"{file.url}: row {file_rows[num_found]} is no longer there as it was packed. The file "
            "has changed since: put the old one back, or pack the pool again."
        )


def _type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type that holds all `values`; None where only their JSON text can."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def _join_types(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    if one is None or other is None:
        return None
    schemas = [pa.schema({"column": one}), pa.schema({"column": other})]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return None


def _stored_type(type: pa.DataType | None) -> pa.DataType | None:
    """`type`, or None where Parquet could not hold it: an object or list that is always empty."""
    if type is None or _is_hollow(type):
        return None
    return pa.string() if pa.types.is_null(type) else type


def _is_hollow(type: pa.DataType) -> bool:
    if not pa.types.is_nested(type):
        return False
    parts = [type.field(i).type for i in range(type.num_fields)]
    return not parts or any(pa.types.is_null(part) or _is_hollow(part) for part in parts)


def _column(values: Sequence[Any], type: pa.DataType | None) -> pa.Array:
    if type is not None:
        return pa.array(values, type)
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())
