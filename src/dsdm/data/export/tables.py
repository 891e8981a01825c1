"""Parquet and JSONL files of records."""

import itertools
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.errors import DataError

ROW_GROUP_BYTES = 64 << 20


def write_parquet(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, folder: Path, shard_rows: int
) -> None:
    """Writes part-00000.parquet, part-00001.parquet ... of `shard_rows` records each."""
    for part, pairs in itertools.groupby(_cut_parts(batches, shard_rows), itemgetter(0)):
        path = folder / f"part-{part:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _row_groups(batch for _, batch in pairs):
                writer.write_table(table, row_group_size=len(table))


def write_jsonl(batches: Iterator[pa.RecordBatch], folder: Path, shard_rows: int) -> None:
    """Writes part-00000.jsonl, part-00001.jsonl ... of `shard_rows` records each.

    Times are written in ISO 8601, bytes in base64, NaN and infinity as null.

    Raises:
        DataError: a column of text is not UTF-8.
    """
    encode = msgspec.json.Encoder(decimal_format="number").encode
    for part, pairs in itertools.groupby(_cut_parts(batches, shard_rows), itemgetter(0)):
        with open(folder / f"part-{part:05d}.jsonl", "wb") as file:
            for _, batch in pairs:
                file.writelines(encode(record) + b"\n" for record in _as_dicts(batch))


def _cut_parts(
    batches: Iterator[pa.RecordBatch], shard_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch with the number of the file it goes to; one that crosses an end is cut there."""
    num_rows = 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            part, used = divmod(num_rows, shard_rows)
            head = rest.slice(0, shard_rows - used)
            yield part, head
            num_rows += head.num_rows
            rest = rest.slice(head.num_rows)


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


def _as_dicts(batch: pa.RecordBatch) -> list[dict[str, object]]:
    try:
        records: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"A chosen record has text that is not UTF-8 in a column other than the documents' "
            f"({error}). JSON can't hold it: export with format parquet."
        ) from error
    return records
