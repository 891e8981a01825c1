"""The packed pool as rows and candidates, memory-mapped."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.packing import COUNTED, DOCUMENTS, pack_file
from dsdm.data.rows import ExamplesConfig, Unit
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import ArtifactError, DataError

__all__ = ["Examples", "ExamplesConfig", "Shard", "Unit", "load_examples", "pack_file"]


@dataclass(frozen=True)
class Shard:
    """The examples of one pool file, and where they stand among all. Implements `Rows`."""

    path: Path
    tokens: np.ndarray
    """All tokens of the shard (uint16 or uint32), memory-mapped."""
    rows: np.ndarray
    """Structured: start, length, document; memory-mapped."""
    counted: np.ndarray | None
    """Whether each token's prediction counts, memory-mapped; None: all of a row but its first."""
    num_documents: int
    first_row: int
    first_document: int
    unit: Unit

    @property
    def num_rows(self) -> int:
        """Rows in this shard."""
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row of the shard, int32, a view into the mapped file."""
        return np.asarray(self.rows["length"])

    def row(self, index: int) -> Row:
        """The row at `index` of the shard; its tokens are a view into the mapped file."""
        record = self.rows[index]
        start = int(record["start"])
        part = slice(start, start + int(record["length"]))
        if self.counted is None:
            return Row(self.tokens[part])
        return Row(self.tokens[part], counted=self.counted[part])

    @property
    def first_candidate(self) -> int:
        """Number of the shard's first candidate among all."""
        return self.first_row if self.unit == "row" else self.first_document

    @property
    def num_candidates(self) -> int:
        """Candidates in this shard."""
        return self.num_rows if self.unit == "row" else self.num_documents


@dataclass(frozen=True)
class Examples:
    """All rows of the pool, in the order of its files. Implements `Rows` and `ManyRows`."""

    shards: tuple[Shard, ...]
    unit: Unit

    @cached_property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @cached_property
    def num_candidates(self) -> int:
        """Candidates in all shards: rows or documents."""
        return sum(shard.num_candidates for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return sum(len(shard.tokens) for shard in self.shards)

    def __len__(self) -> int:
        """Rows in all shards."""
        return self.num_rows

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, int32, shape (rows,)."""
        return np.concatenate([shard.rows["length"] for shard in self.shards])

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens in some of the rows, int32, shape (indices,), read where they lie."""
        lengths = np.empty(len(indices), np.int32)
        shard_of = np.searchsorted(self._first_rows, indices, side="right") - 1
        for number in np.unique(shard_of):
            here = shard_of == number
            shard = self.shards[number]
            lengths[here] = shard.rows["length"][indices[here] - shard.first_row]
        return lengths

    def rows_of(self, candidates: np.ndarray) -> np.ndarray:
        """The sorted rows that belong to some candidates, which are sorted."""
        if self.unit == "row":
            return candidates
        found = [np.zeros(0, np.int64)]
        for shard, local in self._by_shard(candidates):
            documents = np.asarray(shard.rows["document"])
            firsts, ends = (np.searchsorted(documents, local, side) for side in ("left", "right"))
            found += [
                np.arange(first, end) + shard.first_row
                for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)
            ]
        return np.concatenate(found)

    def tokens_in(self, candidates: np.ndarray) -> np.ndarray:
        """Tokens in some candidates, which are sorted; int64, shape (candidates,)."""
        if self.unit == "row":
            return self.lengths_of(candidates).astype(np.int64)
        found = [np.zeros(0, np.int64)]
        for shard, local in self._by_shard(candidates):
            found.append(_documents(shard, ["num_tokens"])["num_tokens"].to_numpy()[local])
        return np.concatenate(found)

    @cached_property
    def candidate_of_row(self) -> np.ndarray:
        """The candidate that each row belongs to, int64, never falling, shape (rows,)."""
        if self.unit == "row":
            return np.arange(self.num_rows)
        return np.concatenate([s.rows["document"] + s.first_document for s in self.shards])

    @cached_property
    def candidate_tokens(self) -> np.ndarray:
        """Tokens in each candidate, int64, shape (candidates,)."""
        if self.unit == "row":
            return self.lengths.astype(np.int64)
        columns = [_documents(shard, ["num_tokens"])["num_tokens"] for shard in self.shards]
        return np.concatenate([column.to_numpy() for column in columns])

    def row(self, index: int) -> Row:
        """The row at `index`; its tokens are a view into the mapped file."""
        shard = self._shard_of(self._first_rows, index, self.num_rows)
        return shard.row(index - shard.first_row)

    def tokens_of(self, candidate: int) -> np.ndarray:
        """All tokens of a candidate, as a view into the mapped file."""
        shard = self._shard_of(self._first_candidates, candidate, self.num_candidates)
        local = candidate - shard.first_candidate
        if self.unit == "row":
            return self.row(candidate).tokens
        documents = shard.rows["document"]
        first, last = bisect_left(documents, local), bisect_right(documents, local) - 1
        end = int(shard.rows[last]["start"]) + int(shard.rows[last]["length"])
        return shard.tokens[int(shard.rows[first]["start"]) : end]

    def text_of(self, candidate: int, tokenizer: Tokenizer) -> str:
        """The text of a candidate, decoded from its tokens."""
        return tokenizer.decode(self.tokens_of(candidate))

    def candidates_table(self, shard: Shard) -> pa.Table:
        """One line per candidate of `shard`: candidate, id, source, file, file_row, num_tokens.

        A row's id, source, file and file_row are those of the document of its first token.
        """
        return pa.concat_tables([table for _, table in self.read_candidates(shard)])

    def read_candidates(self, shard: Shard) -> Iterator[tuple[slice, pa.Table]]:
        """`candidates_table` in blocks, each with the shard's rows that it is about."""
        row_documents = shard.rows["document"]
        first_document = first_row = 0
        for block in _read_documents(shard, DOCUMENTS.names[:5]):
            last_row = bisect_left(row_documents, first_document + len(block))
            table, first = block, first_document
            if self.unit == "row":
                table, first = self._row_lines(shard, block, first_document, first_row, last_row)
            numbers = shard.first_candidate + first + np.arange(len(table))
            numbered = table.add_column(0, "candidate", pa.array(numbers, pa.int64()))
            yield slice(first_row, last_row), numbered
            first_document, first_row = first_document + len(block), last_row

    def _row_lines(
        self, shard: Shard, block: pa.Table, first_document: int, first_row: int, last_row: int
    ) -> tuple[pa.Table, int]:
        records = shard.rows[first_row:last_row]
        lines = block.take(pa.array(records["document"] - first_document))
        lengths = pa.array(records["length"].astype(np.int64))
        return lines.set_column(4, "num_tokens", lengths), first_row

    def _by_shard(self, candidates: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
        """The shards of sorted candidates, and their numbers within each."""
        for shard in self.shards:
            first = shard.first_candidate
            here = slice(*np.searchsorted(candidates, [first, first + shard.num_candidates]))
            if len(candidates[here]):
                yield shard, candidates[here] - first

    @cached_property
    def _first_rows(self) -> list[int]:
        return [shard.first_row for shard in self.shards]

    @cached_property
    def _first_candidates(self) -> list[int]:
        return [shard.first_candidate for shard in self.shards]

    def _shard_of(self, firsts: Sequence[int], index: int, end: int) -> Shard:
        if not 0 <= index < end:
            raise IndexError(f"{index} is not within 0..{end - 1}")
        return self.shards[bisect_right(firsts, index) - 1]


def load_examples(folders: Sequence[Path], unit: Unit) -> Examples:
    """The examples in finished shard folders, in that order.

    Raises:
        DataError: they hold no row at all.
        ArtifactError: a shard is missing or damaged.
    """
    shards: list[Shard] = []
    first_row = first_document = 0
    for folder in folders:
        shard = _load_shard(folder, first_row, first_document, unit)
        shards.append(shard)
        first_row += shard.num_rows
        first_document += shard.num_documents
    if not first_row:
        raise DataError(
            f"The pool holds no usable document: {len(shards)} files were packed to nothing. "
            "See rejected.jsonl beside each shard for what was wrong."
        )
    return Examples(tuple(shards), unit)


def counted_lengths(folder: Path) -> np.ndarray | None:
    """Tokens whose prediction counts in each row of a shard of conversations; None: of others."""
    if not (folder / COUNTED).is_file():
        return None
    rows, counted = np.load(folder / "rows.npy"), np.load(folder / COUNTED)
    ends = np.concatenate([[0], np.cumsum(counted, dtype=np.int64)])
    lengths: np.ndarray = ends[rows["start"] + rows["length"]] - ends[rows["start"]]
    return lengths


def _load_shard(folder: Path, first_row: int, first_document: int, unit: Unit) -> Shard:
    try:
        # a plain view, because indexing an np.memmap is several times slower
        tokens = np.load(folder / "tokens.npy", mmap_mode="r").view(np.ndarray)
        rows = np.load(folder / "rows.npy", mmap_mode="r").view(np.ndarray)
        counted = None
        if (folder / COUNTED).is_file():
            counted = np.load(folder / COUNTED, mmap_mode="r").view(np.ndarray)
        num_documents = pq.read_metadata(folder / "documents.parquet").num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{folder}: the shard can't be read ({error}). Delete it.") from error
    return Shard(folder, tokens, rows, counted, num_documents, first_row, first_document, unit)


def _documents(shard: Shard, columns: Sequence[str]) -> pa.Table:
    return pq.read_table(shard.path / "documents.parquet", columns=list(columns))


def _read_documents(shard: Shard, columns: Sequence[str]) -> Iterator[pa.Table]:
    """At least one table, so that an empty shard has columns too."""
    with pq.ParquetFile(shard.path / "documents.parquet") as file:
        blocks = file.iter_batches(1 << 16, columns=list(columns))
        for block in blocks if shard.num_documents else ():
            yield pa.Table.from_batches([block])
    if not shard.num_documents:
        yield _documents(shard, columns)
