"""MosaicML Streaming's MDS shards, through its own writer (the `mds` extra)."""

from pathlib import Path

import numpy as np

from dsdm.data.export.chosen import SCORE, Chosen
from dsdm.data.export.dataset import ExportConfig
from dsdm.data.export.format import ExportFormat, export_format
from dsdm.errors import ConfigError


@export_format("mds")
class Mds(ExportFormat):
    """MosaicML Streaming's MDS shards: id, source, tokens and score."""

    def require(self) -> None:
        """Raises ConfigError where mosaicml-streaming can't be imported."""
        try:
            import streaming  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"export: format mds needs mosaicml-streaming, which can't be imported ({error}). "
                "Install it with: pip install 'dsdm[mds]'"
            ) from error

    def write(self, chosen: Chosen, config: ExportConfig, folder: Path) -> None:
        """Writes shards and index.json."""
        from streaming import MDSWriter

        dtype = np.dtype(np.uint16 if chosen.tokenizer.vocab_size <= 1 << 16 else np.int32)
        columns = {"id": "str", "source": "str", "tokens": f"ndarray:{dtype.name}"}
        with MDSWriter(columns=columns | {SCORE: "float64"}, out=str(folder)) as writer:
            for shard in chosen.shards():
                ids, sources = (shard.lines[name].to_pylist() for name in ("id", "source"))
                for id, source, tokens, score in zip(
                    ids, sources, shard.tokens(), shard.scores, strict=True
                ):
                    sample = {"id": id, "source": source, "tokens": tokens.astype(dtype)}
                    writer.write(sample | {SCORE: np.float64(score)})
