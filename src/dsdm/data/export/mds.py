"""MosaicML Streaming's MDS shards, through its own writer (the `mds` extra)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dsdm.data.export.chosen import SCORE, ChosenShard
from dsdm.errors import ConfigError


def require_streaming() -> None:
    """Raises ConfigError where mosaicml-streaming can't be imported."""
    try:
        import streaming  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"export: format mds needs mosaicml-streaming, which can't be imported ({error}). "
            "Install it with: pip install 'dsdm[mds]'"
        ) from error


def write_mds(shards: Iterator[ChosenShard], vocab_size: int, folder: Path) -> None:
    """Writes shards and index.json into the empty `folder`: id, source, tokens and score."""
    from streaming import MDSWriter

    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)
    columns = {"id": "str", "source": "str", "tokens": f"ndarray:{dtype.name}", SCORE: "float64"}
    with MDSWriter(columns=columns, out=str(folder)) as writer:
        for shard in shards:
            ids, sources = (shard.candidates[name].to_pylist() for name in ("id", "source"))
            for id, source, tokens, score in zip(
                ids, sources, shard.tokens(), shard.scores, strict=True
            ):
                sample = {"id": id, "source": source, "tokens": tokens.astype(dtype)}
                writer.write(sample | {SCORE: np.float64(score)})
