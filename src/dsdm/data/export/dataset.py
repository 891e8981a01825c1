"""Writing the selection in the format that was asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from dsdm.config import Config, none_of
from dsdm.data.documents import Piece, PoolConfig
from dsdm.data.examples import Examples
from dsdm.data.export.chosen import Chosen
from dsdm.data.export.format import EXPORT_FORMATS
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import DataError


class ExportConfig(Config, frozen=True):
    """What the selected dataset is written as."""

    format: str = "parquet"
    """`parquet` and `jsonl` keep the documents' own columns and add `dsdm_score` (one of that name
    is replaced); `megatron` (.bin and .idx) and `mds` hold tokens; or a format of your own."""
    shard_rows: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    """Records in one Parquet or JSONL file."""

    def __post_init__(self) -> None:
        if self.format not in EXPORT_FORMATS:
            raise ValueError(f"format {none_of(self.format, list(EXPORT_FORMATS))}")


class ExportCounts(msgspec.Struct):
    """What was written."""

    candidates: int
    tokens: int


def require_writer(config: ExportConfig) -> None:
    """Raises ConfigError where the format needs a package that is not installed."""
    EXPORT_FORMATS[config.format].require()


def export(
    examples: Examples,
    candidates: np.ndarray,
    scores: np.ndarray,
    pieces: Sequence[Piece],
    pool_config: PoolConfig,
    tokenizer: Tokenizer,
    config: ExportConfig,
    folder: Path,
) -> ExportCounts:
    """Writes the chosen candidates into `folder`, in the order of the pool.

    Args:
        examples: the packed pool.
        candidates: sorted numbers, as `select` returns them.
        scores: of each of them.
        pieces: what `examples` were packed from, one for each shard.
        pool_config: how the pieces were read.
        tokenizer: of the examples.
        config: the format.
        folder: is there already, and empty.

    Raises:
        DataError: nothing was chosen, a pool file has changed, or columns can't be joined.
        ConfigError: the format needs a package that is not installed.
    """
    if not len(candidates):
        raise DataError("The selection is empty: every candidate is larger than the budget.")
    if (np.diff(candidates) <= 0).any():
        raise ValueError("`candidates` must be sorted and without repeats, as of `select`.")
    require_writer(config)
    chosen = Chosen(examples, candidates, scores, pieces, pool_config, tokenizer)
    EXPORT_FORMATS[config.format].write(chosen, config, folder)
    return ExportCounts(len(candidates), int(chosen.lengths.sum()))
