"""Parquet files of records."""

import itertools
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.export.chosen import Chosen
from dsdm.data.export.dataset import ExportConfig
from dsdm.data.export.format import ExportFormat, export_format
from dsdm.data.export.parts import cut_parts
from dsdm.data.export.schema import cast_records, common_schema

ROW_GROUP_BYTES = 64 << 20


@export_format("parquet")
class Parquet(ExportFormat):
    """Parquet files of the documents' own columns and the score."""

    reads_pool = True

    def write(self, chosen: Chosen, config: ExportConfig, folder: Path) -> None:
        """Writes part-00000.parquet and so on, all of one schema."""
        schema = common_schema(chosen)
        write_parquet(cast_records(chosen, schema), schema, folder, config.shard_rows)


def write_parquet(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, folder: Path, shard_rows: int
) -> None:
    """Writes part-00000.parquet, part-00001.parquet ... of `shard_rows` records each."""
    for part, pairs in itertools.groupby(cut_parts(batches, shard_rows), itemgetter(0)):
        path = folder / f"part-{part:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _row_groups(batch for _, batch in pairs):
                writer.write_table(table, row_group_size=len(table))


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches joined to about ROW_GROUP_BYTES: few chosen records of each make tiny groups."""
    held: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in batches:
        held.append(batch)
        num_bytes += batch.nbytes
        if num_bytes >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held, num_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held)
