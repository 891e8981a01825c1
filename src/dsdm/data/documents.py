"""The pool as a stream of documents; records that can't be used go to a `reject` callback."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsdm.data.conversations import BadRecordError, Conversation, parse_conversation
from dsdm.data.originals import read_original_rows
from dsdm.data.pool import PoolConfig, PoolFile, content_fingerprint, list_pool_files
from dsdm.data.readers import Unreadable, excerpt_of, first_columns, missing_column, read_records

__all__ = [
    "Document",
    "PoolConfig",
    "PoolFile",
    "Rejected",
    "content_fingerprint",
    "content_hash",
    "id_hash",
    "list_pool_files",
    "read_documents",
    "read_original_rows",
    "read_sample",
]


@dataclass(frozen=True)
class Document:
    """One record of the pool, as text, as tokens or as a conversation."""

    id: str
    source: str
    file: str
    file_row: int
    """Position in its file, from 0, before anything is dropped."""
    text: str | None = None
    tokens: np.ndarray | None = None
    conversation: Conversation | None = None
    has_own_id: bool = True
    """False where the id was made of the file's name and row."""


@dataclass(frozen=True)
class Rejected:
    """A record that can't be used."""

    file: str
    row: int
    reason: str
    excerpt: str


def read_documents(
    file: PoolFile, config: PoolConfig, reject: Callable[[Rejected], None]
) -> Iterator[Document]:
    """The usable documents of `file` in its order; the others go to `reject`.

    Raises:
        DataError: the file can't be opened, is damaged, or lacks a column.
    """
    required, optional = _columns(config, file)
    for row, record in read_records(file, config, required, optional):
        try:
            document = _make_document(file, row, record, config)
        except BadRecordError as bad:
            reason, excerpt = bad.args
            reject(Rejected(file.shown, row, reason, excerpt))
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
        for document in read_documents(file, config, reject=lambda rejected: None):
            if document.text is None or quota <= 0:
                break
            yield document
            quota -= len(document.text.encode())


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


def _columns(config: PoolConfig, file: PoolFile) -> tuple[list[str], list[str]]:
    """Columns that must be there, and columns that may be: a default name may be absent."""
    required = _content_columns(config, file)
    optional: list[str] = []
    for name, default in ((config.id, "id"), (config.source, "source")):
        if name is not None and file.format != "text":
            (optional if name == default else required).append(name)
    return list(dict.fromkeys(required)), [name for name in optional if name not in required]


def _content_columns(config: PoolConfig, file: PoolFile) -> list[str]:
    if config.format != "conversations":
        return [config.tokens if config.format == "tokens" else config.text]
    present = first_columns(file, config)
    pair = [config.prompt, config.completion]
    if config.messages not in present and set(pair) <= set(present):
        return pair
    if present and config.messages not in present:
        raise missing_column(file, config.messages, present, f", nor both `{'` and `'.join(pair)}`")
    return [config.messages]


def _make_document(
    file: PoolFile, row: int, record: dict[str, Any] | Unreadable, config: PoolConfig
) -> Document:
    if isinstance(record, Unreadable):
        raise BadRecordError(record.reason, record.excerpt)
    own_id = _label(record.get(config.id)) if config.id else None
    source = _label(record.get(config.source)) if config.source else None
    text = tokens = conversation = None
    if config.format == "tokens":
        tokens = _check_tokens(record.get(config.tokens))
    elif config.format == "conversations":
        columns = (config.messages, config.prompt, config.completion)
        conversation = parse_conversation(record, *columns)
        _check_text(conversation.text, config.max_document_bytes)
    else:
        text = _check_text(record.get(config.text), config.max_document_bytes)
    return Document(
        id=own_id or f"{file.stem}#{row}",
        source=source or file.stem,
        file=file.shown,
        file_row=row,
        text=text,
        tokens=tokens,
        conversation=conversation,
        has_own_id=own_id is not None,
    )


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
