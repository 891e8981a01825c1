"""Parquet files."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.files import BUFFER_BYTES, Piece, PoolFile, open_file
from dsdm.data.formats.format import PIECE_BYTES, Format, Record, format
from dsdm.data.formats.tables import BATCH_BYTES, table_records, take_rows

if TYPE_CHECKING:
    from dsdm.data.pool import PoolConfig


@format("parquet", suffixes=(".parquet",))
class Parquet(Format):
    """Parquet files."""

    def read(
        self, piece: Piece, config: "PoolConfig", columns: Sequence[str] | None
    ) -> Iterator[Record]:
        """Each row of the piece's row groups."""
        for first_row, row_bytes, batch in _read_batches(piece, columns):
            yield from table_records(first_row, row_bytes, batch)

    def columns(self, file: PoolFile, config: "PoolConfig") -> list[str] | None:
        """The columns of the schema."""
        with open_file(file) as handle:
            return list(pq.read_schema(handle).names)

    def cut(
        self, file: PoolFile, config: "PoolConfig", piece_bytes: int = PIECE_BYTES
    ) -> list[Piece]:
        """Runs of row groups of at most `piece_bytes`, uncompressed, or of a single one."""
        bounds, size = [0], 0
        group_bytes = _group_bytes(file)
        for group, num_bytes in enumerate(group_bytes):
            if size + num_bytes > piece_bytes and bounds[-1] < group:
                bounds.append(group)
                size = 0
            size += num_bytes
        ends = [*bounds[1:], len(group_bytes)]
        return [
            Piece(file, number, start, end, is_last=end == len(group_bytes))
            for number, (start, end) in enumerate(zip(bounds, ends, strict=True))
        ]

    def content_bytes(self, file: PoolFile) -> float:
        """Bytes of the row groups, uncompressed."""
        return float(sum(_group_bytes(file)))

    def originals(
        self, chosen: Sequence[tuple[Piece, np.ndarray]], config: "PoolConfig"
    ) -> Iterator[pa.RecordBatch]:
        """Those rows, in the schema of the file."""
        for piece, rows in chosen:
            yield from take_rows(piece, _read_batches(piece, None), rows)


def _group_bytes(file: PoolFile) -> list[int]:
    with open_file(file) as handle:
        about = pq.read_metadata(handle)
    return [about.row_group(group).total_byte_size for group in range(about.num_row_groups)]


def _read_batches(
    piece: Piece, columns: Sequence[str] | None
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Each batch with its first row and the bytes of each of its rows."""
    first_row = 0
    with open_file(piece.file) as handle:
        file = pq.ParquetFile(
            handle, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
        present = file.schema_arrow.names
        chosen = None if columns is None else [name for name in columns if name in present]
        for group in range(piece.start, piece.end):
            about = file.metadata.row_group(group)
            row_bytes = about.total_byte_size / max(about.num_rows, 1)
            batch_rows = min(max(int(BATCH_BYTES / max(row_bytes, 1)), 1), 4096)
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=chosen):
                yield first_row, int(row_bytes), batch
                first_row += batch.num_rows
