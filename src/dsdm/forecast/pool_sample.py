"""What the pool amounts to, estimated from the starts of some of its files."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.config import parse_config
from dsdm.data.conversation_rows import encode_conversations
from dsdm.data.documents import Document, PoolConfig, PoolFile, read_documents
from dsdm.data.pool import pool_error
from dsdm.data.readers import checked, read_batches, read_errors, read_parsed_lines
from dsdm.data.rows import cut_rows
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.graph import Graph
from dsdm.stages import STAGES
from dsdm.stages.run import Run

SAMPLE_BYTES = 4_000_000
EXPANSION_BYTES = 4_000_000
SAMPLE_FILES = 32
SAMPLE_SECONDS = 8.0


@dataclass(frozen=True)
class PoolSample:
    """The pool's size, and what reading a little of it took."""

    num_files: int
    file_bytes: int
    documents: float
    tokens: float
    rows: float
    text_bytes: float
    is_exact: bool
    """Whether the pool is packed already, so that documents, tokens and rows are counted."""
    texts: list[str]
    """Some documents; empty for a pool of tokens."""
    row_lengths: np.ndarray
    """Tokens in each of the sample's rows."""
    sampled_bytes: int
    tokenizer: Tokenizer
    tokenizer_seconds: float
    """To make the real tokenizer."""
    seconds_a_token: float
    """To read and tokenize."""


@dataclass(frozen=True)
class _FileSample:
    file: PoolFile
    documents: list[Document]
    share: float
    """Part of the file that was read, 0 to 1."""


def read_pool_sample(run: Run) -> PoolSample:
    """A sample of the pool, within some seconds.

    Raises:
        DataError: as reading the pool does, or the sample holds no usable document.
    """
    files = [shard.file for shard in run.pool.shards]
    picked = np.unique(np.linspace(0, len(files) - 1, min(SAMPLE_FILES, len(files))).astype(int))
    start = time.monotonic()
    samples = [_read_start(files[i], run.experiment.pool, len(picked)) for i in picked]
    read_seconds = time.monotonic() - start
    documents = [document for sample in samples for document in sample.documents]
    if not documents:
        raise pool_error(f"{files[0].url}: no usable document at its start. Look into the pool.")
    texts = [text for text in map(_text_of, documents) if text]
    size = sum(len(text.encode()) for text in texts)

    start = time.monotonic()
    tokenizer = _tokenizer(run, texts)
    tokenizer_seconds = time.monotonic() - start
    start = time.monotonic()
    lengths = _token_counts(documents, tokenizer, run.experiment.examples.row_tokens)
    seconds = read_seconds + time.monotonic() - start

    growth = _growth(samples, files)
    text_bytes = growth * size
    row_lengths = _row_lengths(lengths, run)
    counts = _finished_counts(run)
    return PoolSample(
        num_files=len(files),
        file_bytes=sum(file.size for file in files),
        documents=counts.get("documents", growth * len(documents)),
        tokens=counts.get("tokens", growth * int(lengths.sum())),
        rows=counts.get("rows", growth * len(row_lengths)),
        text_bytes=text_bytes,
        is_exact=bool(counts),
        texts=texts,
        row_lengths=row_lengths,
        sampled_bytes=size,
        tokenizer=tokenizer,
        tokenizer_seconds=tokenizer_seconds
        * (min(run.experiment.tokenizer.sample_bytes, text_bytes) / max(size, 1)),
        seconds_a_token=seconds / int(lengths.sum()),
    )


def _read_start(file: PoolFile, config: PoolConfig, num_files: int) -> _FileSample:
    """Documents from the start of `file`, one of `num_files`."""
    end = time.monotonic() + SAMPLE_SECONDS / num_files
    size = 0
    documents: list[Document] = []
    for document in read_documents(file, config, reject=lambda rejected: None):
        documents.append(document)
        size += len(_text_of(document)) or 4 * len(_tokens_of(document))
        if size > SAMPLE_BYTES / num_files or time.monotonic() > end:
            return _FileSample(file, documents, _share_read(file, config, document.file_row + 1))
    return _FileSample(file, documents, 1.0)


def _text_of(document: Document) -> str:
    """What is written or said in a document; nothing where it is tokens."""
    return document.conversation.text if document.conversation else document.text or ""


def _tokens_of(document: Document) -> np.ndarray:
    assert document.tokens is not None
    return document.tokens


def _share_read(file: PoolFile, config: PoolConfig, rows: int) -> float:
    """The part of `file` that its first `rows` rows are."""
    if file.format == "parquet":
        with read_errors(file), fsspec.open(file.url, "rb") as handle:
            return rows / max(int(pq.read_metadata(handle).num_rows), rows)
    if file.format == "arrow":
        read = sum(_batch_bytes(batch, rows - first) for first, batch in _batches(file, rows))
    else:
        records = islice(read_parsed_lines(file, config), rows)
        # Blank lines are rows without a record.
        read = sum(size for row, size, _ in records if row < rows)
    return min(1.0, read / max(1.0, file.size * _expansion(file)))


def _batches(file: PoolFile, rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    for first, batch in checked(file, read_batches(file)):
        if first >= rows:
            return
        yield first, batch


def _batch_bytes(batch: pa.RecordBatch, rows: int) -> int:
    return int(batch.slice(0, rows).nbytes)


def _expansion(file: PoolFile) -> float:
    """Bytes of content for each byte of a compressed file, measured at its start."""
    if file.compression is None:
        return 1.0
    with read_errors(file), fsspec.open(file.url, "rb") as raw:
        stream = pa.CompressedInputStream(raw, file.compression)
        read = len(stream.read(EXPANSION_BYTES))
        # It reads ahead by less than 64 KiB.
        return read / max(1, int(raw.tell()))


def _growth(samples: list[_FileSample], files: list[PoolFile]) -> float:
    """How many times the sample the pool is."""
    read = sum(sample.share * sample.file.size for sample in samples)
    return sum(file.size for file in files) / max(read, 1e-9)


def _tokenizer(run: Run, texts: list[str]) -> Tokenizer:
    (made,) = Graph(run, STAGES)["tokenizer"]
    if made.state()[0] == "done":
        return run.tokenizer
    config = run.experiment.own_tokenizer
    small = {"vocab_size": config.vocab_size, "sample_bytes": SAMPLE_BYTES}
    return make_tokenizer(
        parse_config({"path": config.path} | small, TokenizerConfig, "tokenizer"), iter(texts)
    )


def _token_counts(documents: list[Document], tokenizer: Tokenizer, row_tokens: int) -> np.ndarray:
    spoken = [d.conversation for d in documents if d.conversation is not None]
    if spoken:
        rows = encode_conversations(spoken, tokenizer, row_tokens)
        return np.array([len(row.tokens) for row in rows if isinstance(row, Row)])
    encoded = tokenizer.encode_batch([d.text for d in documents if d.text is not None])
    if encoded:
        return np.array([len(tokens) + 1 for tokens in encoded])
    return np.array([len(_tokens_of(document)) for document in documents])


def _row_lengths(lengths: np.ndarray, run: Run) -> np.ndarray:
    starts = np.cumsum(lengths) - lengths
    blocks = cut_rows(starts, int(lengths.sum()), run.experiment.examples)
    return np.concatenate([block["length"] for block in blocks]).astype(np.int64)


def _finished_counts(run: Run) -> dict[str, float]:
    """Sums over the packed shards; empty unless all are packed."""
    totals = dict.fromkeys(("documents", "tokens", "rows"), 0.0)
    for shard in Graph(run, STAGES)["examples"]:
        if shard.state()[0] != "done":
            return {}
        counts = shard.counts()
        totals = {name: total + counts[name] for name, total in totals.items()}
    return totals
