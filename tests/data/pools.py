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
from dsdm.data.documents import (
    Document,
    PoolConfig,
    Rejected,
    list_pool_files,
    read_documents,
)
from dsdm.data.examples import Examples, ExamplesConfig, load_examples, pack_file
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


def read_all(config: PoolConfig) -> tuple[list[Document], list[Rejected]]:
    """All documents and all rejected records of a pool."""
    rejected: list[Rejected] = []
    documents = [
        document
        for file in list_pool_files(config)
        for document in read_documents(file, config, rejected.append)
    ]
    return documents, rejected


def pack(
    folder: Path,
    pool: PoolConfig,
    tokenizer: Tokenizer,
    config: ExamplesConfig | None = None,
) -> list[Path]:
    """Folders of the finished shards, one per file of the pool."""
    config = config or ExamplesConfig()
    done: list[Path] = []
    for i, file in enumerate(list_pool_files(pool)):
        path = folder / f"{i:05d}"
        with writing(path, config=config, inputs={"file": file.url}) as draft:
            pack_file(file, pool, config, tokenizer, done, draft)
        done.append(path)
    return done


def packed(
    folder: Path,
    pool: PoolConfig,
    tokenizer: Tokenizer,
    config: ExamplesConfig | None = None,
) -> Examples:
    config = config or ExamplesConfig()
    return load_examples(pack(folder, pool, tokenizer, config), config.unit)
