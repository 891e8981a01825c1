"""What the pool amounts to, estimated from the starts of some of its files."""

import time
from dataclasses import dataclass

import numpy as np

from dsdm.config import parse_config
from dsdm.data.conversation_rows import encode_conversations
from dsdm.data.documents import Document, Piece, PoolConfig, PoolFile, Reading, read_documents
from dsdm.data.files import pool_error
from dsdm.data.formats import FORMATS
from dsdm.data.rows import cut_rows
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.graph import Graph
from dsdm.stages import STAGES
from dsdm.stages.run import Run

SAMPLE_BYTES = 4_000_000
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
    first_pieces = [shard.piece for shard in run.pool.pieces if shard.piece.number == 0]
    files = [piece.file for piece in first_pieces]
    picked = np.unique(np.linspace(0, len(files) - 1, min(SAMPLE_FILES, len(files))).astype(int))
    start = time.monotonic()
    samples = [_read_start(first_pieces[i], run.experiment.pool, len(picked)) for i in picked]
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


def _read_start(piece: Piece, config: PoolConfig, num_files: int) -> _FileSample:
    """Documents from the start of a file's first piece, one of `num_files`."""
    end = time.monotonic() + SAMPLE_SECONDS / num_files
    size = 0
    documents: list[Document] = []
    reading = Reading()
    for document in read_documents(piece, config, lambda rejected: None, reading):
        documents.append(document)
        size += len(_text_of(document)) or 4 * len(_tokens_of(document))
        if size > SAMPLE_BYTES / num_files or time.monotonic() > end:
            break
    else:
        if piece.is_whole:
            return _FileSample(piece.file, documents, 1.0)
    content = FORMATS[piece.file.format].content_bytes(piece.file)
    return _FileSample(piece.file, documents, min(1.0, reading.num_bytes / max(1.0, content)))


def _text_of(document: Document) -> str:
    """What is written or said in a document; nothing where it is tokens."""
    return document.conversation.text if document.conversation else document.text or ""


def _tokens_of(document: Document) -> np.ndarray:
    assert document.tokens is not None
    return document.tokens


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
    """Sizes of the packed pool; empty unless all of it is packed."""
    (made,) = Graph(run, STAGES)["duplicates"]
    if made.state()[0] != "done":
        return {}
    counts = made.counts()
    return {name: float(counts[name]) for name in ("documents", "tokens", "rows")}
