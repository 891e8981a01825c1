"""Small pools on disk, and what is packed from them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.artifacts import writing
from dsdm.data import packing
from dsdm.data.documents import (
    Document,
    PoolConfig,
    Rejected,
    list_pieces,
    list_pool_files,
    read_documents,
)
from dsdm.data.duplicates import Duplicates, find_duplicates, load_duplicates
from dsdm.data.examples import Examples, ExamplesConfig, Unit, load_examples
from dsdm.data.formats import PIECE_BYTES
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer

WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell;", "das", "Wetter"),
    *("war", "schön,", "天气", "很好", "and", "{x}", "=", "3"),
]


def texts(count: int, seed: int = 0, longest: int = 60) -> list[str]:
    """Different texts of a few words."""
    rng = np.random.default_rng(seed)
    return [
        f"{seed}:{i} " + " ".join(rng.choice(WORDS, rng.integers(1, longest))) for i in range(count)
    ]


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of 300 tokens."""
    return make_tokenizer(TokenizerConfig(vocab_size=300), iter(texts(50)))


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_jsonl(path: Path, records: Sequence[object]) -> Path:
    """Objects as lines of JSON; bytes as lines of their own."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def read_all(
    config: PoolConfig, piece_bytes: int = PIECE_BYTES
) -> tuple[list[Document], list[Rejected]]:
    """All documents and all rejected records of a pool."""
    rejected: list[Rejected] = []
    documents = [
        document
        for piece in list_pieces(list_pool_files(config), config, piece_bytes)
        for document in read_documents(piece, config, rejected.append)
    ]
    return documents, rejected


def pack(
    folder: Path,
    pool: PoolConfig,
    tokenizer: Tokenizer,
    config: ExamplesConfig | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> list[Path]:
    """Folders of the finished shards, one per piece of the pool."""
    config = config or ExamplesConfig()
    done: list[Path] = []
    for i, piece in enumerate(list_pieces(list_pool_files(pool), pool, piece_bytes)):
        path = folder / f"{i:05d}"
        listed = folder / f"rejected-{i:05d}.jsonl"
        with writing(path, config=config, inputs={}) as draft:
            packing.pack(piece, pool, config, tokenizer, draft.path, rejected_path=listed)
        done.append(path)
    return done


def dedupe(
    folder: Path, shards: Sequence[Path], unit: Unit, share: float = 1.0, **options: Any
) -> Duplicates:
    """The duplicates of finished shards."""
    folder.mkdir(parents=True)
    find_duplicates(shards, unit, share, folder, **options)
    return load_duplicates(folder)


def packed(
    folder: Path,
    pool: PoolConfig,
    tokenizer: Tokenizer,
    config: ExamplesConfig | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> Examples:
    config = config or ExamplesConfig()
    shards = pack(folder, pool, tokenizer, config, piece_bytes)
    found = dedupe(folder / "duplicates", shards, config.unit, pool.max_rejected_share)
    return load_examples(shards, found, config.unit)
