"""Files of a pool: where they are, how they are opened, and the errors of reading them."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa

from dsdm.config import without_secrets
from dsdm.errors import DataError, DsdmError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20
EXPANSION_BYTES = 4_000_000


@dataclass(frozen=True)
class PoolFile:
    """One file of the pool."""

    url: str
    format: str
    """Name of a registered format, see `dsdm.data.formats`."""
    size: int
    """Bytes, compressed if the file is."""
    version: str
    """Changes with the file's size or time of change (ETag in an object store)."""

    @property
    def shown(self) -> str:
        """The URL without passwords, keys and signatures: what is written and shown of it."""
        return without_secrets(self.url)

    @property
    def stem(self) -> str:
        """The file's name without folders and suffixes."""
        return stem_of(self.url)

    @property
    def compression(self) -> str | None:
        """`gzip`, `zstd` or None, by the file's name."""
        return COMPRESSIONS.get(PurePosixPath(self.url).suffix.lower())

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine."""
        return "://" not in self.url


@dataclass(frozen=True)
class Piece:
    """A part of a pool file that is packed by itself."""

    file: PoolFile
    number: int
    """Position among the pieces of its file, from 0."""
    start: int
    """First byte of plain lines, first row group of Parquet; 0 where files are never cut."""
    end: int
    """First byte or row group behind it; the file's size where files are never cut."""
    is_last: bool
    """Whether it ends its file."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its file."""
        return self.number == 0 and self.is_last

    def place(self, row: int) -> str:
        """How a message names a row that is counted from the piece's start."""
        return f"row {row}" if self.number == 0 else f"row {row} of piece {self.number}"


def whole(file: PoolFile) -> Piece:
    """All of a file as one piece."""
    return Piece(file, 0, 0, file.size, is_last=True)


def stem_of(url: str) -> str:
    """The name of a file without folders and suffixes."""
    return PurePosixPath(url).name.split(".")[0]


def pool_error(message: str) -> DataError:
    """An error about the pool, whose message shows no secret of a URL."""
    return DataError(without_secrets(message))


def row_is_gone(piece: Piece, row: int) -> DataError:
    """The error for a row that was packed and is not there now."""
    return pool_error(
        f"{piece.file.url}: {piece.place(row)} is no longer there as it was packed. The file has "
        "changed since: put the old one back, or pack the pool again."
    )


def open_file(file: PoolFile, start: int = 0) -> Any:
    """The file's content as a binary stream, decompressed, from the byte `start` on."""
    handle = fsspec.open(file.url, "rb").open()
    if start:
        handle.seek(start)
    if file.compression:
        # Unlike the gzip and zstandard modules it notices truncation and reads all frames.
        handle = pa.CompressedInputStream(handle, file.compression)
    elif file.is_local:
        return handle
    # The files of object stores' clients know no longest line.
    return io.BufferedReader(handle, BUFFER_BYTES)


def content_bytes(file: PoolFile) -> float:
    """Bytes of a file's content: of a compressed file, estimated from its start."""
    if file.compression is None:
        return float(file.size)
    with read_errors(file), fsspec.open(file.url, "rb") as raw:
        stream = pa.CompressedInputStream(raw, file.compression)
        num_read = len(stream.read(EXPANSION_BYTES))
        # It reads ahead by less than 64 KiB.
        return file.size * num_read / max(1, int(raw.tell()))


@contextlib.contextmanager
def read_errors(
    file: PoolFile, place: Callable[[], str] = lambda: "at its start"
) -> Iterator[None]:
    """Turns whatever a damaged file or its store makes the libraries raise into a DataError."""
    try:
        yield
    except Exception as error:  # what the clients of object stores raise has no base
        known = OSError | EOFError | MemoryError | UnicodeDecodeError | pa.ArrowException
        is_known = isinstance(error, known)
        if isinstance(error, DsdmError) or (file.is_local and not is_known):
            raise
        cause = " ".join(str(error).split())
        raise pool_error(
            f"{file.url}: cannot be read {place()} ({type(error).__name__}: {cause}). It is "
            "missing, cut short or damaged, or its store refuses it: fetch it again, leave it out "
            "of `pool.files`, or see to it that it can be reached from here."
        ) from error
