"""What a format is, and the formats there are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dsdm.data.files import Piece, PoolFile, content_bytes, row_is_gone, whole
from dsdm.data.formats.columns import record_batches
from dsdm.registry import Registry

if TYPE_CHECKING:
    from dsdm.data.pool import PoolConfig

PIECE_BYTES = 64 << 20
"""Size of a piece, uncompressed. Pieces depend on it and on the files' bytes alone."""
EXCERPT = 80


@dataclass(frozen=True)
class Unreadable:
    """A record that can't be used, and why."""

    reason: str
    excerpt: str


Fields = dict[str, Any]
"""A record's values by column; text that was not checked to be UTF-8 yet is bytes."""

Record = tuple[int, int, Fields | Unreadable | None]
"""Row, counted from the start of the piece; bytes of the file's content (of a compressed file, the
uncompressed bytes); values. A row without values, such as a blank line, is None."""


class Format:
    """Reads one kind of file.

    A subclass must give `read`; the rest suits files of records that are read from their start.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    """Ends of the names of such files, before that of a compression."""
    has_columns: ClassVar[bool] = True
    """Whether a record has columns beside the text, such as an id."""

    def read(
        self, piece: Piece, config: "PoolConfig", columns: Sequence[str] | None
    ) -> Iterator[Record]:
        """Each row of a piece.

        Args:
            piece: What to read.
            config: The pool's settings.
            columns: The columns that are used, if the file has them; None: all are. More than is
                asked for may be given.
        """
        raise NotImplementedError

    def columns(self, file: PoolFile, config: "PoolConfig") -> list[str] | None:
        """The names of a file's columns; None where it has no record that could tell."""
        records = (record for _, _, record in self.read(whole(file), config, None))
        return next((list(record) for record in records if isinstance(record, dict)), None)

    def cut(
        self, file: PoolFile, config: "PoolConfig", piece_bytes: int = PIECE_BYTES
    ) -> list[Piece]:
        """The pieces of a file, in order; at least one."""
        return [whole(file)]

    def content_bytes(self, file: PoolFile) -> float:
        """The bytes of all records of a file, as `read` counts them; may be an estimate."""
        return content_bytes(file)

    def originals(
        self, chosen: Sequence[tuple[Piece, np.ndarray]], config: "PoolConfig"
    ) -> Iterator[pa.RecordBatch]:
        """Some rows of a file as they were, with all their columns, in batches of one schema.

        Args:
            chosen: Pieces of the file in order, each with its rows: sorted, unique, counted from
                the piece's start.
            config: The pool's settings.

        Raises:
            DataError: a row is gone.
        """

        def read() -> Iterator[tuple[int, Fields]]:
            for piece, rows in chosen:
                yield from self._chosen(piece, rows, config)

        return record_batches(read)

    def _chosen(
        self, piece: Piece, rows: np.ndarray, config: "PoolConfig"
    ) -> Iterator[tuple[int, Fields]]:
        num_found = 0
        for row, num_bytes, record in self.read(piece, config, None):
            if num_found == len(rows):
                return
            if row == rows[num_found] and isinstance(record, dict):
                yield num_bytes, record
                num_found += 1
        if num_found < len(rows):
            raise row_is_gone(piece, int(rows[num_found]))


FORMATS: Registry[Format] = Registry("dsdm.formats")
"""The formats by their names."""


def format(name: str, suffixes: tuple[str, ...] = ()) -> Callable[[type[Format]], type[Format]]:
    """A decorator that registers a format."""

    def register(cls: type[Format]) -> type[Format]:
        cls.name, cls.suffixes = name, suffixes
        FORMATS.add(name, cls())
        return cls

    return register


def suffixes() -> dict[str, str]:
    """The format that each known end of a file's name stands for."""
    return {suffix: name for name in FORMATS for suffix in FORMATS[name].suffixes}


def excerpt_of(value: object) -> str:
    """The start of a value as text, for a message."""
    if isinstance(value, bytes):
        return value[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
    return str(value)[:EXCERPT]
