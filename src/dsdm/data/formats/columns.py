"""Records without a schema as batches of one schema."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20


def record_batches(
    read: Callable[[], Iterator[tuple[int, dict[str, Any]]]],
) -> Iterator[pa.RecordBatch]:
    """The records that `read` gives, twice, with the bytes of each, in one schema.

    The first reading finds a schema that holds all; a column that no type holds becomes JSON text.
    """
    types: dict[str, pa.DataType | None] = {}
    for records in _in_batches(read()):
        for name in dict.fromkeys(name for record in records for name in record):
            found = _type_of([record.get(name) for record in records])
            types[name] = _join_types(types[name], found) if name in types else found
    stored = {name: _stored_type(type) for name, type in types.items()}
    for records in _in_batches(read()):
        columns = {
            name: _column([record.get(name) for record in records], type)
            for name, type in stored.items()
        }
        yield pa.record_batch(columns)


def _in_batches(records: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for num_bytes, record in records:
        batch.append({name: _plain(value) for name, value in record.items()})
        size += num_bytes
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


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
