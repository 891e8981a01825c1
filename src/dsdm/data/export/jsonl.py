"""JSONL files of records."""

import itertools
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import msgspec
import pyarrow as pa

from dsdm.data.export.chosen import Chosen
from dsdm.data.export.dataset import ExportConfig
from dsdm.data.export.format import ExportFormat, export_format
from dsdm.data.export.parts import cut_parts
from dsdm.errors import DataError


@export_format("jsonl")
class Jsonl(ExportFormat):
    """JSONL files of the documents' own columns and the score."""

    reads_pool = True

    def write(self, chosen: Chosen, config: ExportConfig, folder: Path) -> None:
        """Writes part-00000.jsonl and so on; each pool file keeps its own columns."""
        write_jsonl(chosen.records(), folder, config.shard_rows)


def write_jsonl(batches: Iterator[pa.RecordBatch], folder: Path, shard_rows: int) -> None:
    """Writes part-00000.jsonl, part-00001.jsonl ... of `shard_rows` records each.

    Times are written in ISO 8601, bytes in base64, NaN and infinity as null.

    Raises:
        DataError: a column of text is not UTF-8.
    """
    encode = msgspec.json.Encoder(decimal_format="number").encode
    for part, pairs in itertools.groupby(cut_parts(batches, shard_rows), itemgetter(0)):
        with open(folder / f"part-{part:05d}.jsonl", "wb") as file:
            for _, batch in pairs:
                file.writelines(encode(record) + b"\n" for record in _as_dicts(batch))


def _as_dicts(batch: pa.RecordBatch) -> list[dict[str, object]]:
    try:
        records: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"A chosen record has text that is not UTF-8 in a column other than the documents' "
            f"({error}). JSON can't hold it: export with format parquet."
        ) from error
    return records
