"""The chosen candidates, one pool file at a time: as records with all columns, and as tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dsdm.data.documents import PoolConfig, PoolFile
from dsdm.data.examples import Examples, Shard, Unit
from dsdm.data.originals import read_original_rows
from dsdm.data.tokenizer import Tokenizer

SCORE = "dsdm_score"
BATCH_ROWS = 1024
ROW_FIELDS = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "text": pa.string(),
        SCORE: pa.float64(),
    }
)


@dataclass(frozen=True)
class ChosenShard:
    """What was chosen of one pool file, in the order of the file."""

    file: PoolFile
    shard: Shard
    unit: Unit
    candidates: pa.Table
    """Lines of `Examples.candidates_table`."""
    starts: np.ndarray
    """Where each candidate's tokens start in the shard, int64."""
    scores: np.ndarray
    """Score of each candidate, float64."""

    def tokens(self) -> Iterator[np.ndarray]:
        """The tokens of each candidate, as views into the mapped file."""
        lengths = self.candidates["num_tokens"].to_numpy()
        for start, length in zip(self.starts.tolist(), lengths.tolist(), strict=True):
            yield self.shard.tokens[start : start + length]

    def records(self, config: PoolConfig, tokenizer: Tokenizer) -> Iterator[pa.RecordBatch]:
        """Batches of one schema: whole documents as they were in the pool, or rows, with scores."""
        if self.unit == "row":
            return self._rows(tokenizer)
        return self._documents(config)

    def _documents(self, config: PoolConfig) -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in read_original_rows(self.file, config, self.candidates["file_row"].to_numpy()):
            scores = pa.array(self.scores[first : first + batch.num_rows], pa.float64())
            yield _with_scores(batch, scores)
            first += batch.num_rows
        assert first == len(self.scores), (first, len(self.scores))

    def _rows(self, tokenizer: Tokenizer) -> Iterator[pa.RecordBatch]:
        tokens = self.tokens()
        for first in range(0, len(self.scores), BATCH_ROWS):
            table = self.candidates.slice(first, BATCH_ROWS)
            batch_tokens = [next(tokens) for _ in range(len(table))]
            columns = [
                table["id"].combine_chunks(),
                table["source"].combine_chunks(),
                pa.array(batch_tokens, ROW_FIELDS.field("tokens").type),
                pa.array([tokenizer.decode(ids) for ids in batch_tokens], pa.string()),
                pa.array(self.scores[first : first + BATCH_ROWS], pa.float64()),
            ]
            yield pa.record_batch(columns, schema=ROW_FIELDS)


def iter_chosen(
    examples: Examples, chosen: np.ndarray, scores: np.ndarray, pool_files: Sequence[PoolFile]
) -> Iterator[ChosenShard]:
    """The pool files from which something was chosen; `chosen` is sorted, with its `scores`."""
    for shard, file in zip(examples.shards, pool_files, strict=True):
        first, end = shard.first_candidate, shard.first_candidate + shard.num_candidates
        here = slice(*np.searchsorted(chosen, [first, end]))
        if len(chosen[here]):
            table, starts = _lines_of(examples, shard, chosen[here])
            values = scores[here].astype(np.float64)
            yield ChosenShard(file, shard, examples.unit, table, starts, values)


def _lines_of(
    examples: Examples, shard: Shard, candidates: np.ndarray
) -> tuple[pa.Table, np.ndarray]:
    """The lines of a shard's chosen candidates, and where each one's tokens start in the shard."""
    tables, starts = [], []
    # Candidates lie one after another in the shard, with nothing between.
    first, offset = shard.first_candidate, 0
    for _, block in examples.read_candidates(shard):
        lengths = block["num_tokens"].to_numpy()
        ends = offset + np.cumsum(lengths)
        bounds = np.searchsorted(candidates, [first, first + len(block)])
        local = candidates[slice(*bounds)] - first
        tables.append(block.take(pa.array(local)))
        starts.append(ends[local] - lengths[local])
        first, offset = first + len(block), offset + int(lengths.sum())
    return pa.concat_tables(tables), np.concatenate(starts)


def _with_scores(batch: pa.RecordBatch, scores: pa.Array) -> pa.RecordBatch:
    """The batch with a last column of scores; one that an earlier export left is replaced.

    Metadata is dropped: that of datasets and pandas lists the columns, and would be wrong now.
    """
    kept = [name for name in batch.schema.names if name != SCORE]
    fields = [batch.schema.field(name) for name in kept] + [pa.field(SCORE, pa.float64())]
    columns = [batch.column(name) for name in kept] + [scores]
    return pa.record_batch(columns, schema=pa.schema(fields))
