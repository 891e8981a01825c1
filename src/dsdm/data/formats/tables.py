"""Records out of Arrow's tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dsdm.data.files import Piece, row_is_gone
from dsdm.data.formats.format import Record

BATCH_BYTES = 4 << 20


def table_records(first_row: int, row_bytes: int, batch: pa.RecordBatch) -> Iterator[Record]:
    """Each row of a batch, of which the first is `first_row`."""
    names = batch.schema.names
    values = [_plain_values(column) for column in batch.columns]
    for row, record in enumerate(zip(*values, strict=True), first_row):
        yield row, row_bytes, dict(zip(names, record, strict=True))


def take_rows(
    piece: Piece, batches: Iterator[tuple[int, int, pa.RecordBatch]], rows: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Some rows, sorted, of the batches of a piece, each of which comes with its first row.

    Raises:
        DataError: a row is gone.
    """
    num_found = 0
    for first_row, _, batch in batches:
        stop = int(np.searchsorted(rows, first_row + batch.num_rows))
        if stop > num_found:
            yield batch.take(pa.array(rows[num_found:stop] - first_row))
            num_found = stop
        if num_found == len(rows):
            return
    if num_found < len(rows):
        raise row_is_gone(piece, int(rows[num_found]))


def _plain_values(column: pa.Array) -> Sequence[Any]:
    if pa.types.is_dictionary(column.type):
        column.validate(full=True)
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.binary())  # Arrow does not check that its strings are UTF-8
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    # A damaged file may say that a value lies outside of it, and Arrow would look there.
    column.validate(full=True)
    if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return [_token_array(value) for value in column]
    values: Sequence[Any] = column.to_pylist()
    return values


def _token_array(value: pa.Scalar) -> Any:
    """The integers of one list; anything else as plain Python, for the message."""
    if (
        value.values is None
        or value.values.null_count
        or not pa.types.is_integer(value.type.value_type)
    ):
        return value.as_py()
    return value.values.to_numpy(zero_copy_only=False)
