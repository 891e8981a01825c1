"""The chosen candidates in the pool's order, as records with columns and as tokens."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from dsdm.data.documents import Piece, PoolConfig, read_original_rows
from dsdm.data.examples import Examples, Shard
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
class Chosen:
    """The chosen candidates of a pool."""

    examples: Examples
    candidates: np.ndarray
    """Sorted."""
    scores: np.ndarray
    """Of each candidate."""
    pieces: Sequence[Piece]
    """What each shard of the examples was packed from."""
    pool_config: PoolConfig
    tokenizer: Tokenizer

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens in each candidate, int64."""
        return self.examples.tokens_in(self.candidates)

    def shards(self) -> Iterator["ChosenShard"]:
        """The pieces from which something was chosen, in the pool's order."""
        for shard, piece in zip(self.examples.shards, self.pieces, strict=True):
            first = shard.first_candidate
            here = slice(*np.searchsorted(self.candidates, [first, first + shard.num_candidates]))
            if len(self.candidates[here]):
                values = self.scores[here].astype(np.float64)
                yield ChosenShard(self, shard, piece, self.candidates[here], values)

    def tokens(self) -> Iterator[np.ndarray]:
        """The tokens of each candidate, as views into mapped files."""
        return (tokens for shard in self.shards() for tokens in shard.tokens())

    def files(self) -> Iterator["ChosenFile"]:
        """The files from which something was chosen, in the pool's order."""
        for _, shards in itertools.groupby(self.shards(), lambda shard: shard.piece.file):
            yield ChosenFile(self, tuple(shards))

    def records(self) -> Iterator[pa.RecordBatch]:
        """Batches of all records; each file has a schema of its own."""
        return (batch for file in self.files() for batch in file.records())


@dataclass(frozen=True)
class ChosenShard:
    """What was chosen of one piece of the pool, in its order."""

    chosen: Chosen
    shard: Shard
    piece: Piece
    candidates: np.ndarray
    """Sorted."""
    scores: np.ndarray
    """Score of each candidate, float64."""

    @cached_property
    def lines(self) -> pa.Table:
        """Lines of `Examples.candidates_table`."""
        first = self.shard.first_candidate
        found = []
        for _, block in self.chosen.examples.read_candidates(self.shard):
            here = slice(*np.searchsorted(self.candidates, [first, first + len(block)]))
            found.append(block.take(pa.array(self.candidates[here] - first)))
            first += len(block)
        return pa.concat_tables(found)

    def tokens(self) -> Iterator[np.ndarray]:
        """The tokens of each candidate, as views into the mapped file."""
        rows = self.shard.rows
        local = self.candidates - self.shard.first_candidate
        if self.shard.unit == "document":
            local = np.searchsorted(rows["document"], local)
        lengths = self.lines["num_tokens"].to_pylist()
        for start, length in zip(rows["start"][local].tolist(), lengths, strict=True):
            yield self.shard.tokens[start : start + length]

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Batches of chosen rows with tokens, text and scores."""
        tokens = self.tokens()
        for first in range(0, len(self.scores), BATCH_ROWS):
            table = self.lines.slice(first, BATCH_ROWS)
            batch_tokens = [next(tokens) for _ in range(len(table))]
            columns = [
                table["id"].combine_chunks(),
                table["source"].combine_chunks(),
                pa.array(batch_tokens, ROW_FIELDS.field("tokens").type),
                pa.array([self.chosen.tokenizer.decode(ids) for ids in batch_tokens], pa.string()),
                pa.array(self.scores[first : first + BATCH_ROWS], pa.float64()),
            ]
            yield pa.record_batch(columns, schema=ROW_FIELDS)


@dataclass(frozen=True)
class ChosenFile:
    """What was chosen of one file of the pool."""

    chosen: Chosen
    shards: tuple[ChosenShard, ...]

    @property
    def url(self) -> str:
        """Where the file is."""
        return self.shards[0].piece.file.url

    def records(self) -> Iterator[pa.RecordBatch]:
        """Batches of one schema: whole documents as they were in the pool, or rows, with scores."""
        if self.chosen.examples.unit == "row":
            return (batch for shard in self.shards for batch in shard.rows())
        return self._documents()

    def _documents(self) -> Iterator[pa.RecordBatch]:
        chosen = [
            (one.piece, one.lines["file_row"].to_numpy() - one.shard.first_file_row)
            for one in self.shards
        ]
        scores = np.concatenate([shard.scores for shard in self.shards])
        first = 0
        for batch in read_original_rows(chosen, self.chosen.pool_config):
            values = pa.array(scores[first : first + batch.num_rows], pa.float64())
            yield _with_scores(batch, values)
            first += batch.num_rows
        assert first == len(scores), (first, len(scores))


def _with_scores(batch: pa.RecordBatch, scores: pa.Array) -> pa.RecordBatch:
    """The batch with a last column of scores; one that an earlier export left is replaced.

    Metadata is dropped: that of datasets and pandas lists the columns, and would be wrong now.
    """
    kept = [name for name in batch.schema.names if name != SCORE]
    fields = [batch.schema.field(name) for name in kept] + [pa.field(SCORE, pa.float64())]
    columns = [batch.column(name) for name in kept] + [scores]
    return pa.record_batch(columns, schema=pa.schema(fields))
