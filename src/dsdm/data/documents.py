"""The pool as a stream of documents; records that can't be used go to a `reject` callback."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np
import pyarrow as pa

from dsdm.data.conversations import BadRecordError, Conversation, parse_conversation
from dsdm.data.files import Piece, PoolFile, pool_error, read_errors
from dsdm.data.formats import FORMATS, Fields, Unreadable, excerpt_of
from dsdm.data.pool import PoolConfig, content_fingerprint, list_pieces, list_pool_files
from dsdm.errors import DataError

__all__ = [
    "Document",
    "Piece",
    "PoolConfig",
    "PoolFile",
    "Reading",
    "Rejected",
    "content_fingerprint",
    "content_hash",
    "id_hash",
    "list_pieces",
    "list_pool_files",
    "read_documents",
    "read_original_rows",
    "read_sample",
]


class Document(msgspec.Struct, frozen=True):
    """One record of the pool, as text, as tokens or as a conversation."""

    id: str | None
    """As the pool gives it; None where it gives none."""
    source: str
    row: int
    """Position in its piece, from 0, before anything is dropped."""
    text: str | None = None
    tokens: np.ndarray | None = None
    conversation: Conversation | None = None


@dataclass(frozen=True)
class Rejected:
    """A record that can't be used."""

    file: str
    row: int
    """Position in its piece."""
    reason: str
    excerpt: str


@dataclass
class Reading:
    """How far the reading of a piece has come."""

    rows: int = 0
    records: int = 0
    """Rows but blank lines."""
    num_bytes: int = 0
    """Of the file's content, uncompressed."""


def read_documents(
    piece: Piece,
    config: PoolConfig,
    reject: Callable[[Rejected], None],
    reading: Reading | None = None,
) -> Iterator[Document]:
    """The usable documents of a piece in its order; the others go to `reject`.

    Args:
        piece: What to read.
        config: The pool's settings.
        reject: Called with each record that can't be used.
        reading: Is kept up to date.

    Raises:
        DataError: the file can't be opened, is damaged, or lacks a column.
    """
    reading = reading or Reading()
    shown, stem = piece.file.shown, piece.file.stem
    with read_errors(piece.file, lambda: _after(piece, reading)):
        columns = _columns(config, piece.file)
        for row, num_bytes, record in FORMATS[piece.file.format].read(piece, config, columns):
            reading.rows = row + 1
            reading.num_bytes += num_bytes
            if record is None:
                continue
            reading.records += 1
            try:
                document = _make_document(record, row, stem, config)
            except BadRecordError as bad:
                reason, excerpt = bad.args
                reject(Rejected(shown, row, reason, excerpt))
                continue
            if _is_sampled(document, config):
                yield document


def read_sample(
    files: Sequence[PoolFile], config: PoolConfig, num_bytes: int
) -> Iterator[Document]:
    """Documents of about `num_bytes` of text: from each file's start, in proportion to its size."""
    total = max(sum(file.size for file in files), 1)
    for file in files:
        quota = num_bytes * file.size / total
        pieces = (
            read_documents(piece, config, reject=lambda rejected: None)
            for piece in list_pieces([file], config)
        )
        for document in chain.from_iterable(pieces):
            if document.text is None or quota <= 0:
                break
            yield document
            quota -= len(document.text.encode())


def read_original_rows(
    chosen: Sequence[tuple[Piece, np.ndarray]], config: PoolConfig
) -> Iterator[pa.RecordBatch]:
    """Some rows of a file as they were, with all their columns, in batches of one schema.

    Args:
        chosen: Pieces of one file in order, each with its rows: sorted, unique, counted from the
            piece's start.
        config: The pool's settings.

    Raises:
        DataError: the file is damaged, or has changed since it was packed.
    """
    file = chosen[0][0].file
    with read_errors(file, lambda: "again"):
        yield from FORMATS[file.format].originals(chosen, config)


def content_hash(document: Document, seed: int | None = None) -> int:
    """64 bits that depend on the text, tokens or turns alone (and on `seed`)."""
    if document.text is not None:
        content = document.text.encode()
    elif document.conversation is not None:
        content = document.conversation.content
    else:
        assert document.tokens is not None
        content = document.tokens.astype("<i8").tobytes()
    return _hash(content, b"" if seed is None else str(seed).encode())


def id_hash(id: str) -> int:
    """64 bits that depend on the id."""
    return _hash(id.encode())


def _hash(content: bytes, key: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little")


def _after(piece: Piece, reading: Reading) -> str:
    return f"after {piece.place(reading.rows - 1)}" if reading.rows else "at its start"


def _columns(config: PoolConfig, file: PoolFile) -> list[str]:
    """The columns that are read: a column with a default name may be absent, others must not.

    Raises:
        DataError: a column is missing.
    """
    present = FORMATS[file.format].columns(file, config)
    required = [config.tokens if config.format == "tokens" else config.text]
    if config.format == "conversations":
        required = [config.messages]
        pair = [config.prompt, config.completion]
        if present is not None and config.messages not in present:
            if not set(pair) <= set(present):
                other = f", nor both `{'` and `'.join(pair)}`"
                raise _missing_column(file, config.messages, present, other)
            required = pair
    optional: list[str] = []
    for name, default in ((config.id, "id"), (config.source, "source")):
        if name is not None and FORMATS[file.format].has_columns:
            (optional if name == default else required).append(name)
    for name in required:
        if present is not None and name not in present:
            raise _missing_column(file, name, present)
    return list(dict.fromkeys([*required, *optional]))


def _missing_column(
    file: PoolFile, name: str, columns: Sequence[str], other: str = ""
) -> DataError:
    """The error for a column that `file` does not have; `other` says what else it lacks."""
    seen = ", ".join(f"`{excerpt_of(' '.join(column.split()))}`" for column in columns)
    named = "`pool.text`, `pool.tokens`, `pool.id` and `pool.source`"
    if other:
        named = "`pool.messages`, or `pool.prompt` and `pool.completion`"
    return pool_error(
        f"{file.url}: has no column `{name}`{other}; it has {seen or 'no columns'}. Name the right "
        f"ones in {named}."
    )


def _make_document(
    record: Fields | Unreadable, row: int, stem: str, config: PoolConfig
) -> Document:
    if isinstance(record, Unreadable):
        raise BadRecordError(record.reason, record.excerpt)
    id = _label(record.get(config.id)) if config.id else None
    source = (_label(record.get(config.source)) if config.source else None) or stem
    if config.format == "tokens":
        return Document(id, source, row, tokens=_check_tokens(record.get(config.tokens)))
    if config.format == "conversations":
        columns = (config.messages, config.prompt, config.completion)
        conversation = parse_conversation(record, *columns)
        _check_text(conversation.text, config.max_document_bytes)
        return Document(id, source, row, conversation=conversation)
    text = _check_text(record.get(config.text), config.max_document_bytes)
    return Document(id, source, row, text)


def _label(value: object) -> str | None:
    """An id or source as text; None where it is null or empty."""
    if value is None or value in ("", b""):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode()


def _check_text(value: object, max_bytes: int) -> str:
    if value is None:
        raise BadRecordError("null text", "")
    try:
        if isinstance(value, str):
            num_bytes, text = len(value.encode()), value
        elif isinstance(value, bytes):
            num_bytes, text = len(value), value.decode()
        else:
            raise BadRecordError(f"text is {type(value).__name__}, not a string", excerpt_of(value))
    except UnicodeError:
        raise BadRecordError("invalid UTF-8", excerpt_of(value)) from None
    if not text.strip():
        raise BadRecordError("empty text", "")
    if num_bytes > max_bytes:
        raise BadRecordError(f"longer than {max_bytes} bytes: {num_bytes}", excerpt_of(text))
    return text


def _check_tokens(value: object) -> np.ndarray:
    if value is None:
        raise BadRecordError("null tokens", "")
    tokens = _as_array(value)
    if tokens.ndim == 1 and len(tokens) == 0:
        raise BadRecordError("empty tokens", "")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise BadRecordError("tokens are not a list of integers", excerpt_of(value))
    if len(tokens) == 1:
        raise BadRecordError("a single token, after which nothing is predicted", excerpt_of(value))
    if tokens.min() < 0:
        raise BadRecordError("negative token", str(tokens.min()))
    return tokens


def _as_array(value: object) -> np.ndarray:
    try:
        return np.asarray(value if isinstance(value, list | np.ndarray) else None)
    except (ValueError, OverflowError):
        return np.asarray(None)  # nested lists of different lengths


def _is_sampled(document: Document, config: PoolConfig) -> bool:
    if config.sample >= 1:
        return True
    return content_hash(document, config.sample_seed) < config.sample * 2.0**64
