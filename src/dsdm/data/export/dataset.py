"""Writing the selection in the format that was asked for."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from dsdm.artifacts import Draft
from dsdm.config import Config
from dsdm.data.documents import PoolConfig, PoolFile
from dsdm.data.examples import Examples
from dsdm.data.export.chosen import ChosenShard, iter_chosen
from dsdm.data.export.columns import cast_records, common_schema
from dsdm.data.export.mds import require_streaming, write_mds
from dsdm.data.export.megatron import write_megatron
from dsdm.data.export.tables import write_jsonl, write_parquet
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import DataError


class ExportConfig(Config, frozen=True):
    """What the selected dataset is written as."""

    format: Literal["parquet", "jsonl", "megatron", "mds"] = "parquet"
    """`parquet` and `jsonl` keep the documents' own columns and add `dsdm_score` (one of that name
    is replaced); `megatron` (.bin and .idx) and `mds` hold tokens."""
    shard_rows: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    """Records in one Parquet or JSONL file."""


def require_writer(config: ExportConfig) -> None:
    """Raises ConfigError where the format needs a package that is not installed."""
    if config.format == "mds":
        require_streaming()


def export_dataset(
    examples: Examples,
    chosen: np.ndarray,
    scores: np.ndarray,
    pool_files: Sequence[PoolFile],
    pool_config: PoolConfig,
    tokenizer: Tokenizer,
    config: ExportConfig,
    draft: Draft,
) -> None:
    """Writes the chosen candidates into `draft`, in the order of the pool.

    Args:
        examples: the packed pool.
        chosen: sorted candidate numbers, as `select` returns them.
        scores: of each of them.
        pool_files: the files that `examples` were packed from, one for each shard.
        pool_config: how the files were read.
        tokenizer: of the examples.
        config: the format.
        draft: an empty folder; its counts are filled.

    Raises:
        DataError: nothing was chosen, a pool file has changed, or columns can't be joined.
        ConfigError: the format needs a package that is not installed.
    """
    if not len(chosen):
        raise DataError("The selection is empty: every candidate is larger than the budget.")
    if (np.diff(chosen) <= 0).any():
        raise ValueError("`chosen` must be sorted and without repeats, as `select` returns it.")
    require_writer(config)

    def shards() -> Iterator[ChosenShard]:
        return iter_chosen(examples, chosen, scores, pool_files)

    lengths = examples.tokens_in(chosen)
    if config.format == "parquet":
        schema = common_schema(shards(), pool_config, tokenizer)
        batches = cast_records(shards(), pool_config, tokenizer, schema)
        write_parquet(batches, schema, draft.path, config.shard_rows)
    elif config.format == "jsonl":
        records = (batch for shard in shards() for batch in shard.records(pool_config, tokenizer))
        write_jsonl(records, draft.path, config.shard_rows)
    elif config.format == "megatron":
        tokens = (tokens for shard in shards() for tokens in shard.tokens())
        write_megatron(tokens, lengths, tokenizer.vocab_size, draft.path)
    else:
        write_mds(shards(), tokenizer.vocab_size, draft.path)
    draft.counts.update(candidates=len(chosen), tokens=int(lengths.sum()))
