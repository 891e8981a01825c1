"""Lines of JSON objects."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from dsdm.data.files import Piece, PoolFile
from dsdm.data.formats.format import (
    PIECE_BYTES,
    Fields,
    Format,
    Record,
    Unreadable,
    excerpt_of,
    format,
)
from dsdm.data.formats.lines import cut_lines, read_lines

if TYPE_CHECKING:
    from dsdm.data.pool import PoolConfig


@format("jsonl", suffixes=(".jsonl", ".ndjson", ".json"))
class Jsonl(Format):
    """Lines of JSON objects."""

    def read(
        self, piece: Piece, config: "PoolConfig", columns: Sequence[str] | None
    ) -> Iterator[Record]:
        """Each line; all fields of an object are given."""
        for row, (num_bytes, line) in enumerate(read_lines(piece, config.max_document_bytes)):
            if isinstance(line, Unreadable):
                yield row, num_bytes, line
            else:
                yield row, num_bytes, _parse(line) if line.strip() else None

    def cut(
        self, file: PoolFile, config: "PoolConfig", piece_bytes: int = PIECE_BYTES
    ) -> list[Piece]:
        """Byte ranges of a plain file."""
        return cut_lines(file, piece_bytes)


def _parse(line: bytes) -> Fields | Unreadable:
    try:
        record = _decode(line)
    except UnicodeDecodeError:
        return Unreadable("invalid UTF-8", excerpt_of(line))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON: {error}", excerpt_of(line))
    if not isinstance(record, dict):
        return Unreadable(f"not a JSON object but {type(record).__name__}", excerpt_of(line))
    return record


def _decode(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)  # several times as fast
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # It takes less than json does: no NaN, no half surrogate pair, no byte-order mark.
        return json.loads(line.decode("utf-8-sig"))
