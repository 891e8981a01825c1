"""Documents into rows of tokens: one shard of examples per pool file.

A shard is a folder of
    tokens.npy         all tokens, documents one after another, each closed by the end-of-text token
    rows.npy           where each row starts, how long it is, which document its first token is from
    counted.npy        of conversations: whether each token's prediction counts
    documents.parquet  id, source, file, file_row, num_tokens, start
    hashes.npy         sorted hashes of the documents' content: a later shard drops what is here
    id_hashes.npy      sorted hashes of the ids that the pool gave
    rejected.jsonl     records that can't be used, and why
It is written as the file is read, so memory grows by 8 bytes a document of that one file: where
each starts. Hashes beyond a million lie in sorted scratch files until the shard is finished.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.artifacts import Draft
from dsdm.data.arrays import ArrayFile, SeenHashes
from dsdm.data.conversation_rows import encode_conversations
from dsdm.data.conversations import BadRecordError
from dsdm.data.documents import (
    Document,
    PoolConfig,
    PoolFile,
    Rejected,
    content_hash,
    id_hash,
    read_documents,
)
from dsdm.data.pool import pool_error
from dsdm.data.rows import ROW, ExamplesConfig, cut_rows
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer

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
COUNTED = "counted.npy"
CHUNK_DOCUMENTS = 1024
CHUNK_CHARACTERS = 2 << 20


def pack_file(
    file: PoolFile,
    pool_config: PoolConfig,
    config: ExamplesConfig,
    tokenizer: Tokenizer,
    earlier: Sequence[Path],
    draft: Draft,
) -> None:
    """Writes the shard of `file` into `draft`, without what the `earlier` shards hold already.

    Raises:
        DataError: the file is damaged, or too large a share of its records is unusable.
    """
    with ExitStack() as stack:
        counts_all = pool_config.format != "conversations"
        shard = _ShardFiles(draft.path, tokenizer, earlier, config, counts_all, stack)
        for chunk in _chunks(read_documents(file, pool_config, shard.reject)):
            shard.add(chunk)
    shard.finish()
    draft.counts.update(shard.counts)
    _check_rejected(file, pool_config, shard, draft)


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


class _ShardFiles:
    """The files of one shard while they are written."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        earlier: Sequence[Path],
        config: ExamplesConfig,
        counts_all: bool,
        stack: ExitStack,
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.config = config
        self.starts = array("q")
        self.num_read = 0
        self.reasons: Counter[str] = Counter()
        self.counts = dict.fromkeys(("documents", "rows", "tokens", "duplicates", "rejected"), 0)
        self._contents = _seen(folder, earlier, "hashes.npy")
        self._ids = _seen(folder, earlier, "id_hashes.npy")
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._tokens = stack.enter_context(ArrayFile(folder / "tokens.npy", self._dtype))
        self._counted = None
        if not counts_all:
            self._counted = stack.enter_context(ArrayFile(folder / COUNTED, np.dtype(bool)))
        self._rejected: TextIO = stack.enter_context(
            (folder / "rejected.jsonl").open("w", encoding="utf-8")
        )
        self._documents = stack.enter_context(
            pq.ParquetWriter(folder / "documents.parquet", DOCUMENTS, compression="zstd")
        )

    def reject(self, rejected: Rejected) -> None:
        """Notes a record that can't be used."""
        self.num_read = max(self.num_read, rejected.row + 1)
        self.counts["rejected"] += 1
        self.reasons[rejected.reason.split(":")[0]] += 1
        self._rejected.write(json.dumps(msgspec.to_builtins(rejected), ensure_ascii=True) + "\n")

    def add(self, documents: Sequence[Document]) -> None:
        """Appends those `documents` that are new and within the vocabulary."""
        self.num_read = max(self.num_read, documents[-1].file_row + 1)
        documents = self._without_repeats(self._with_valid_tokens(documents))
        encoded = [] if not documents else self._encode(documents)
        pairs = list(self._with_rows(zip(documents, encoded, strict=True)))
        if pairs:
            self._append([document for document, _ in pairs], [row for _, row in pairs])

    def finish(self) -> None:
        """Writes the rows and hashes, once all documents are in."""
        self._contents.save()
        self._ids.save()
        starts = np.frombuffer(self.starts, np.int64)
        with ArrayFile(self.folder / "rows.npy", ROW) as rows:
            for block in cut_rows(starts, self.counts["tokens"], self.config):
                rows.append(block)
        self.counts["rows"] = rows.length

    def _with_valid_tokens(self, documents: Sequence[Document]) -> list[Document]:
        kept = []
        for document in documents:
            top = -1 if document.tokens is None else int(document.tokens.max())
            if top < self.tokenizer.vocab_size:
                kept.append(document)
                continue
            size = self.tokenizer.vocab_size
            self._reject(document, "token outside the vocabulary", f"{top}; vocabulary {size}")
        return kept

    def _without_repeats(self, documents: Sequence[Document]) -> list[Document]:
        """The documents whose content and id are both new."""
        contents = np.array([content_hash(document) for document in documents], np.uint64)
        ids = np.array([id_hash(document.id) for document in documents], np.uint64)
        old_contents = set(contents[self._contents.contains(contents)].tolist())
        old_ids = set(ids[self._ids.contains(ids)].tolist())
        kept: dict[int, Document] = {}
        new_ids = set()
        pairs = zip(documents, contents.tolist(), ids.tolist(), strict=True)
        for document, content, own_id in pairs:
            if content in old_contents or content in kept:
                self.counts["duplicates"] += 1
            elif document.has_own_id and (own_id in old_ids or own_id in new_ids):
                self._reject(document, DUPLICATE_ID, document.id)
            else:
                kept[content] = document
                new_ids.update([own_id] if document.has_own_id else [])
        self._contents.add(np.array(list(kept), np.uint64))
        self._ids.add(np.array(list(new_ids), np.uint64))
        return list(kept.values())

    def _reject(self, document: Document, reason: str, excerpt: str) -> None:
        self.reject(Rejected(document.file, document.file_row, reason, excerpt))

    def _encode(self, documents: Sequence[Document]) -> list[Row | BadRecordError]:
        """Each document's tokens: text is closed by the end-of-text token, tokens stay as is."""
        spoken = [d.conversation for d in documents if d.conversation is not None]
        if spoken:
            return encode_conversations(spoken, self.tokenizer, self.config.row_tokens)
        texts = [document.text for document in documents if document.text is not None]
        encoded = iter(self.tokenizer.encode_batch(texts))
        eos = np.array([self.tokenizer.eos])
        return [
            Row(np.concatenate([next(encoded), eos]) if d.tokens is None else d.tokens)
            for d in documents
        ]

    def _with_rows(
        self, encoded: Iterable[tuple[Document, Row | BadRecordError]]
    ) -> Iterator[tuple[Document, Row]]:
        """The documents that could be encoded; the others are rejected."""
        for document, row in encoded:
            if isinstance(row, Row):
                yield document, row
            else:
                self._reject(document, *row.args)

    def _append(self, documents: Sequence[Document], rows: Sequence[Row]) -> None:
        encoded = [row.tokens for row in rows]
        counted = [row.counted for row in rows if row.counted is not None]
        if self._counted is not None:
            self._counted.append(np.concatenate(counted))
        lengths = np.array([len(tokens) for tokens in encoded])
        ends = self.counts["tokens"] + np.cumsum(lengths)
        starts = ends - lengths
        self._tokens.append(np.concatenate(encoded).astype(self._dtype))
        columns = [
            [document.id for document in documents],
            [document.source for document in documents],
            [document.file for document in documents],
            [document.file_row for document in documents],
            lengths,
            starts,
        ]
        self._documents.write_batch(
            pa.record_batch(
                [pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)],
                schema=DOCUMENTS,
            )
        )
        self.starts.extend(starts.tolist())
        self.counts["documents"] += len(documents)
        self.counts["tokens"] = int(ends[-1])


def _seen(folder: Path, earlier: Sequence[Path], name: str) -> SeenHashes:
    return SeenHashes([path / name for path in earlier], folder / name)


def _check_rejected(file: PoolFile, config: PoolConfig, shard: _ShardFiles, draft: Draft) -> None:
    kept_path = draft.target.with_name(f"rejected-{draft.target.name}.jsonl")
    kept_path.unlink(missing_ok=True)
    num_rejected = shard.counts["rejected"]
    if num_rejected <= config.max_rejected_share * shard.num_read:
        return
    (draft.path / "rejected.jsonl").replace(kept_path)
    common = "; ".join(f"{count} {reason}" for reason, count in shard.reasons.most_common(3))
    remedy = "Repair the file, or raise the limit."
    if shard.reasons[DUPLICATE_ID]:
        remedy = (
            "Where ids are not unique over the whole pool, set `pool.id: null`, and documents are "
            "numbered. Else repair the file, or raise the limit."
        )
    raise pool_error(
        f"{file.url}: {num_rejected} of {shard.num_read} records can't be used ({common}); "
        f"`pool.max_rejected_share` allows {config.max_rejected_share:.2%}. "
        f"They are listed in {kept_path}. {remedy}"
    )
