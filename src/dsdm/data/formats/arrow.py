"""Streams of Arrow record batches, as `datasets` stores its data."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dsdm.data.files import Piece, PoolFile, open_file
from dsdm.data.formats.format import Format, Record, format
from dsdm.data.formats.tables import BATCH_BYTES, table_records, take_rows

if TYPE_CHECKING:
    from dsdm.data.pool import PoolConfig


@format("arrow", suffixes=(".arrow",))
class Arrow(Format):
    """Streams of Arrow record batches, as `datasets` stores its data."""

    def read(
        self, piece: Piece, config: "PoolConfig", columns: Sequence[str] | None
    ) -> Iterator[Record]:
        """Each row of the stream."""
        for first_row, row_bytes, batch in _read_batches(piece.file):
            present = batch.schema.names
            chosen = present if columns is None else [name for name in columns if name in present]
            yield from table_records(first_row, row_bytes, batch.select(chosen))

    def columns(self, file: PoolFile, config: "PoolConfig") -> list[str] | None:
        """The columns of the schema."""
        with open_file(file) as handle:
            return list(pa.ipc.open_stream(handle).schema.names)

    def originals(
        self, chosen: Sequence[tuple[Piece, np.ndarray]], config: "PoolConfig"
    ) -> Iterator[pa.RecordBatch]:
        """Those rows, in the schema of the file."""
        for piece, rows in chosen:
            yield from take_rows(piece, _read_batches(piece.file), rows)


def _read_batches(file: PoolFile) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Each batch with its first row and the bytes of each of its rows."""
    first_row = 0
    with open_file(file) as handle:
        for batch in pa.ipc.open_stream(handle):
            row_bytes = max(batch.nbytes // max(batch.num_rows, 1), 1)
            batch_rows = max(BATCH_BYTES // row_bytes, 1)
            for start in range(0, batch.num_rows, batch_rows):
                part = batch.slice(start, batch_rows)
                yield first_row, row_bytes, part
                first_row += part.num_rows
