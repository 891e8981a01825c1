"""Documents into rows of tokens: a folder of examples for each piece of a pool file.

The folder of a piece holds
    tokens.npy         all tokens, documents one after another, each closed by the end-of-text token
    rows.npy           where each row starts, how long it is, which document its first token is from
    counted.npy        of conversations: whether each token's prediction counts
    documents.parquet  id (null where the pool gives none), source, file, file_row (counted from the
                       start of the piece), num_tokens, start
    hashes.npy         sorted hashes of the documents' content, with the document of each
    id_hashes.npy      sorted hashes of the ids that the pool gives, with the document of each
    rejected.jsonl     records that can't be used, and why; rows count from the start of the piece
    piece.json         counts, see PackCounts
A piece is packed without knowing any other. What is a copy of a document of another piece, and how
many rows of the file stand before a piece, is found afterwards (`dsdm.data.duplicates`).
It is written as it is read, so memory grows by about 40 bytes a document of that one piece.
"""

import dataclasses
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.arrays import ArrayFile, HashSet
from dsdm.data.conversation_rows import encode_conversations
from dsdm.data.documents import (
    Document,
    Piece,
    PoolConfig,
    Reading,
    Rejected,
    content_hash,
    id_hash,
    read_documents,
)
from dsdm.data.files import pool_error
from dsdm.data.rows import ROW, ExamplesConfig, cut_rows
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import ArtifactError

DUPLICATE_ID = "duplicate id"
DOCUMENTS = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "file": pa.string(),
        "file_row": pa.int64(),
        "num_tokens": pa.int64(),
        "start": pa.int64(),
    }
)
HASH = np.dtype([("hash", "<u8"), ("document", "<u4")])
COUNTED = "counted.npy"
COUNTS = "piece.json"
REJECTED = "rejected.jsonl"
CHUNK_DOCUMENTS = 1024
CHUNK_CHARACTERS = 2 << 20
GROUP_DOCUMENTS = 1 << 14
"""Documents in a row group of documents.parquet."""


class PackCounts(msgspec.Struct):
    """What a piece of the pool amounts to."""

    file: str
    """URL of the file, without secrets."""
    piece: int
    """Position among the pieces of its file."""
    is_last: bool
    """Whether it ends its file."""
    file_rows: int = 0
    """Rows of the file that it takes, blank lines included."""
    records: int = 0
    documents: int = 0
    rows: int = 0
    """Rows of tokens."""
    tokens: int = 0
    duplicates: int = 0
    """Copies of a document of the same piece."""
    rejected: int = 0
    reasons: dict[str, int] = {}
    """Kinds of reasons of the rejected records."""


def pack(
    piece: Piece,
    pool_config: PoolConfig,
    config: ExamplesConfig,
    tokenizer: Tokenizer,
    folder: Path,
    advance: Callable[[int], None] = lambda num_bytes: None,
    *,
    rejected_path: Path | None = None,
) -> PackCounts:
    """Writes the examples of a piece into a folder.

    Args:
        piece: What to pack.
        pool_config: How to read it.
        config: How documents become rows.
        tokenizer: Makes tokens of text.
        folder: An empty folder.
        advance: Called with the bytes of the file's content that were read.
        rejected_path: Where the list of rejected records is left if they are too many; None: beside
            the folder.

    Raises:
        DataError: the file is damaged, or it is one piece and too many records are unusable.
    """
    reading = Reading()
    with ExitStack() as stack:
        counts_all = pool_config.format != "conversations"
        writer = _PieceWriter(piece, folder, tokenizer, config, counts_all, stack)
        for chunk in _chunks(read_documents(piece, pool_config, writer.reject, reading)):
            before = reading.num_bytes
            writer.add(chunk)
            advance(reading.num_bytes - before)
        writer.finish()
    counts = writer.counts
    counts.file_rows, counts.records = reading.rows, reading.records
    save_counts(folder, counts)
    if piece.is_whole:
        path = rejected_path or folder.with_name(f"rejected-{folder.name}.jsonl")
        check_rejected([(folder, counts)], pool_config.max_rejected_share, [], path)
    return counts


def save_counts(folder: Path, counts: PackCounts) -> None:
    """Writes the counts of a packed piece."""
    (folder / COUNTS).write_bytes(msgspec.json.encode(counts))


def load_counts(folder: Path) -> PackCounts:
    """The counts of a packed piece.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    try:
        return msgspec.json.decode((folder / COUNTS).read_bytes(), type=PackCounts)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder}: the shard can't be read ({error}). Delete it.") from error


def check_rejected(
    pieces: Sequence[tuple[Path, PackCounts]],
    max_share: float,
    more: Sequence[Rejected],
    path: Path,
) -> None:
    """Raises DataError where too many records of a file are rejected, listed in `path`.

    Args:
        pieces: Folders and counts of all pieces of the file.
        max_share: Largest share of rejected records.
        more: Those of its records that were rejected later, for their ids.
        path: Is written then, and deleted else.
    """
    path.unlink(missing_ok=True)
    num_records = sum(counts.records for _, counts in pieces)
    num_rejected = sum(counts.rejected for _, counts in pieces) + len(more)
    if num_rejected <= max_share * num_records:
        return
    reasons = Counter({DUPLICATE_ID: len(more)})
    first_row = 0
    with path.open("w", encoding="utf-8") as file:
        for folder, counts in pieces:
            reasons.update(counts.reasons)
            for rejected in read_rejected(folder):
                write_rejected(file, dataclasses.replace(rejected, row=rejected.row + first_row))
            first_row += counts.file_rows
        for rejected in more:
            write_rejected(file, rejected)
    common = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(3) if count)
    remedy = "Repair the file, or raise the limit."
    if more:
        remedy = (
            "Where ids are not unique over the whole pool, set `pool.id: null`, and documents are "
            "numbered. Else repair the file, or raise the limit."
        )
    raise pool_error(
        f"{pieces[0][1].file}: {num_rejected} of {num_records} records can't be used ({common}); "
        f"`pool.max_rejected_share` allows {max_share:.2%}. "
        f"They are listed in {path}. {remedy}"
    )


def read_rejected(folder: Path) -> Iterator[Rejected]:
    """The rejected records that are listed in a folder."""
    with (folder / REJECTED).open("rb") as file:
        for line in file:
            yield msgspec.json.decode(line, type=Rejected)


def write_rejected(file: TextIO, rejected: Rejected) -> None:
    """Adds a line to a list of rejected records."""
    file.write(json.dumps(msgspec.to_builtins(rejected), ensure_ascii=True) + "\n")


def _chunks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in groups large enough to tokenize in parallel, small enough for memory."""
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        spoken = document.conversation
        size += len(document.text or "") + (len(spoken.text) if spoken else 0)
        if len(chunk) == CHUNK_DOCUMENTS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _PieceWriter:
    """The files of one piece while they are written."""

    def __init__(
        self,
        piece: Piece,
        folder: Path,
        tokenizer: Tokenizer,
        config: ExamplesConfig,
        counts_all: bool,
        stack: ExitStack,
    ) -> None:
        self.counts = PackCounts(piece.file.shown, piece.number, piece.is_last)
        self._folder = folder
        self._tokenizer = tokenizer
        self._config = config
        self._reasons: Counter[str] = Counter()
        self._seen = HashSet()
        self._starts = array("q")
        self._hashes = array("Q")
        self._id_hashes = array("Q")
        self._id_documents = array("I")
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._tokens = stack.enter_context(ArrayFile(folder / "tokens.npy", self._dtype))
        self._counted = None
        if not counts_all:
            self._counted = stack.enter_context(ArrayFile(folder / COUNTED, np.dtype(bool)))
        self._rejected: TextIO = stack.enter_context(
            (folder / REJECTED).open("w", encoding="utf-8")
        )
        self._documents = stack.enter_context(
            pq.ParquetWriter(folder / "documents.parquet", DOCUMENTS, compression="zstd")
        )
        self._batches: list[pa.RecordBatch] = []

    def reject(self, rejected: Rejected) -> None:
        """Notes a record that can't be used."""
        self.counts.rejected += 1
        self._reasons[rejected.reason.split(":")[0]] += 1
        write_rejected(self._rejected, rejected)

    def add(self, documents: Sequence[Document]) -> None:
        """Appends those `documents` that are new and within the vocabulary."""
        if documents[0].tokens is not None:
            documents = self._within_vocabulary(documents)
        documents, hashes = self._without_copies(documents)
        if not documents:
            return
        if documents[0].conversation is not None:
            documents, hashes, lengths = self._add_conversations(documents, hashes)
        elif documents[0].tokens is not None:
            rows = [d.tokens for d in documents if d.tokens is not None]
            self._tokens.append(np.concatenate(rows).astype(self._dtype))
            lengths = np.array([len(row) for row in rows])
        else:
            texts = [document.text or "" for document in documents]
            tokens, lengths = self._tokenizer.encode_documents(texts, self._dtype)
            self._tokens.append(tokens)
        self._note(documents, hashes, lengths)

    def finish(self) -> None:
        """Writes what is known once all documents are in."""
        self._write_group()
        starts = np.frombuffer(self._starts, np.int64)
        with ArrayFile(self._folder / "rows.npy", ROW) as rows:
            for block in cut_rows(starts, self.counts.tokens, self._config):
                rows.append(block)
        self.counts.rows = rows.length
        self.counts.reasons = dict(sorted(self._reasons.items()))
        everything = np.arange(self.counts.documents, dtype=np.uint32)
        _save_hashes(self._folder / "hashes.npy", self._hashes, everything)
        _save_hashes(self._folder / "id_hashes.npy", self._id_hashes, self._id_documents)

    def _reject(self, document: Document, reason: str, excerpt: str) -> None:
        self.reject(Rejected(self.counts.file, document.row, reason, excerpt))

    def _within_vocabulary(self, documents: Sequence[Document]) -> list[Document]:
        kept = []
        size = self._tokenizer.vocab_size
        for document in documents:
            assert document.tokens is not None
            top = int(document.tokens.max())
            if top < size:
                kept.append(document)
            else:
                excerpt = f"{top}; vocabulary {size}"
                self._reject(document, "token outside the vocabulary", excerpt)
        return kept

    def _without_copies(self, documents: Sequence[Document]) -> tuple[list[Document], list[int]]:
        """The documents whose content is new in this piece, and its hashes."""
        hashes = np.array([content_hash(document) for document in documents], np.uint64)
        is_old = self._seen.contains(hashes)
        kept: dict[int, Document] = {}
        for document, content, old in zip(documents, hashes.tolist(), is_old.tolist(), strict=True):
            if not old:
                kept.setdefault(content, document)
        self.counts.duplicates += len(documents) - len(kept)
        self._seen.add(np.array(list(kept), np.uint64))
        return list(kept.values()), list(kept)

    def _add_conversations(
        self, documents: Sequence[Document], hashes: Sequence[int]
    ) -> tuple[list[Document], list[int], np.ndarray]:
        """Appends those that can be encoded; rejects the others."""
        spoken = [d.conversation for d in documents if d.conversation is not None]
        encoded = encode_conversations(spoken, self._tokenizer, self._config.row_tokens)
        kept = []
        for document, content, row in zip(documents, hashes, encoded, strict=True):
            if isinstance(row, Row):
                kept.append((document, content, row))
            else:
                self._reject(document, *row.args)
        for _, _, row in kept:
            assert self._counted is not None
            self._counted.append(row.is_counted)
            self._tokens.append(row.tokens.astype(self._dtype))
        lengths = np.array([len(row.tokens) for _, _, row in kept], np.int64)
        return [one[0] for one in kept], [one[1] for one in kept], lengths

    def _note(
        self, documents: Sequence[Document], hashes: Sequence[int], lengths: np.ndarray
    ) -> None:
        """Writes down what was appended."""
        ends = self.counts.tokens + np.cumsum(lengths)
        starts = ends - lengths
        first = self.counts.documents
        for number, document in enumerate(documents, first):
            if document.id is not None:
                self._id_hashes.append(id_hash(document.id))
                self._id_documents.append(number)
        self._starts.frombytes(starts.astype(np.int64).tobytes())
        self._hashes.extend(hashes)
        columns = [
            [document.id for document in documents],
            [document.source for document in documents],
            [self.counts.file] * len(documents),
            [document.row for document in documents],
            lengths,
            starts,
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=DOCUMENTS))
        self.counts.documents += len(documents)
        self.counts.tokens += int(lengths.sum())
        if sum(batch.num_rows for batch in self._batches) >= GROUP_DOCUMENTS:
            self._write_group()

    def _write_group(self) -> None:
        if self._batches:
            self._documents.write_table(pa.Table.from_batches(self._batches, DOCUMENTS))
            self._batches = []


def _save_hashes(path: Path, hashes: "array[int]", documents: "np.ndarray | array[int]") -> None:
    entries = np.empty(len(hashes), HASH)
    entries["hash"] = hashes
    entries["document"] = documents
    np.save(path, entries[np.argsort(entries["hash"], kind="stable")])
