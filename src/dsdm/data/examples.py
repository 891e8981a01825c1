"""The packed pool as rows and candidates, memory-mapped, without what was dropped."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsdm.data.arrays import map_array
from dsdm.data.duplicates import Duplicates
from dsdm.data.files import stem_of
from dsdm.data.packing import COUNTED, DOCUMENTS
from dsdm.data.rows import ExamplesConfig, Unit
from dsdm.data.sequences import Row, number_without, numbers_without
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import ArtifactError, DataError

__all__ = ["Examples", "ExamplesConfig", "Shard", "Unit", "counted_lengths", "load_examples"]


@dataclass(frozen=True)
class Shard:
    """The examples of one piece of the pool, and where they stand among all. Implements `Rows`.

    Rows and documents that were dropped are passed over: the others are numbered without gaps.
    Where rows are candidates, a dropped document may still own a part of a row that stays.
    """

    path: Path
    unit: Unit
    num_rows: int
    num_documents: int
    """Where rows are candidates, all documents of the piece, else those that stay."""
    first_row: int
    first_document: int
    first_file_row: int
    """Rows of the pool file before the piece."""
    dropped: np.ndarray
    """Sorted numbers of the packed documents that are left out."""
    dropped_rows: np.ndarray
    """Sorted numbers of the packed rows that are left out."""

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens of the piece (uint16 or uint32), memory-mapped; some may be in no row."""
        return self._map("tokens.npy")

    @cached_property
    def counted(self) -> np.ndarray | None:
        """Whether each token's prediction counts; None: all but each row's first."""
        return self._map(COUNTED) if (self.path / COUNTED).is_file() else None

    @property
    def rows(self) -> np.ndarray:
        """Structured: start, length, document; memory-mapped where nothing was dropped."""
        if not len(self.dropped_rows):
            return self._packed_rows
        rows = np.delete(self._packed_rows, self.dropped_rows)
        if self.unit == "document":
            rows["document"] -= np.searchsorted(self.dropped, rows["document"])
        return rows

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row of the piece, int32."""
        return np.asarray(self.rows["length"])

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens in some of the rows of the piece, int32, read where they lie."""
        packed = numbers_without(self.dropped_rows, indices)
        return np.asarray(self._packed_rows["length"][packed])

    def row(self, index: int) -> Row:
        """The row at `index` of the piece; its tokens are a view into the mapped file."""
        record = self._packed_rows[number_without(self.dropped_rows, index)]
        start = int(record["start"])
        part = slice(start, start + int(record["length"]))
        if self.counted is None:
            return Row(self.tokens[part])
        return Row(self.tokens[part], counted=self.counted[part])

    def tokens_of_document(self, document: int) -> np.ndarray:
        """All tokens of a document that stays, as a view into the mapped file."""
        packed = number_without(self.dropped, document)
        documents = self._packed_rows["document"]
        first, last = bisect_left(documents, packed), bisect_right(documents, packed) - 1
        start, last_row = int(self._packed_rows[first]["start"]), self._packed_rows[last]
        return self.tokens[start : int(last_row["start"]) + int(last_row["length"])]

    def document_column(self, name: str) -> np.ndarray:
        """A column of numbers of the documents that stay."""
        column = pq.read_table(self.path / "documents.parquet", columns=[name])[name].to_numpy()
        return np.delete(column, self.dropped)

    def read_documents(self) -> Iterator[tuple[int, pa.Table]]:
        """Blocks of the packed documents, dropped ones too, each with its first one's number.

        Columns are id, source, file, file_row and num_tokens. There is at least one block, so that
        an empty piece has columns too.
        """
        first = 0
        with pq.ParquetFile(self.path / "documents.parquet") as file:
            for batch in file.iter_batches(1 << 16, columns=DOCUMENTS.names[:5]):
                yield first, self._in_file(pa.Table.from_batches([batch]))
                first += batch.num_rows
        if not first:
            columns = DOCUMENTS.names[:5]
            yield 0, pq.read_table(self.path / "documents.parquet", columns=columns)

    def _in_file(self, table: pa.Table) -> pa.Table:
        """Documents with their rows in the whole file, and with ids where the pool gives none."""
        rows = pc.add(table["file_row"], self.first_file_row)
        stem = stem_of(table["file"][0].as_py())
        made = pc.binary_join_element_wise(stem, pc.cast(rows, pa.string()), "#")
        ids = pc.coalesce(table["id"], made)
        names = table.schema.names
        table = table.set_column(names.index("file_row"), "file_row", rows)
        return table.set_column(names.index("id"), "id", ids)

    @cached_property
    def _packed_rows(self) -> np.ndarray:
        return self._map("rows.npy")

    def _map(self, name: str) -> np.ndarray:
        try:
            return map_array(self.path / name)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(
                f"{self.path}: the shard can't be read ({error}). Delete it."
            ) from error

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
    """All rows of the pool, in the order of its files. Implements `Rows` and `ManyRows`.

    Pieces are mapped when they are first read.
    """

    shards: tuple[Shard, ...]
    unit: Unit
    num_tokens: int
    """In all rows."""

    @cached_property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @cached_property
    def num_candidates(self) -> int:
        """Candidates in all shards: rows or documents."""
        return sum(shard.num_candidates for shard in self.shards)

    def __len__(self) -> int:
        """Rows in all shards."""
        return self.num_rows

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, int32, shape (rows,)."""
        return np.concatenate([shard.lengths for shard in self.shards])

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens in some of the rows, int32, shape (indices,), read where they lie."""
        lengths = np.empty(len(indices), np.int32)
        shard_of = np.searchsorted(self._first_rows, indices, side="right") - 1
        for number in np.unique(shard_of):
            here = shard_of == number
            shard = self.shards[number]
            lengths[here] = shard.lengths_of(indices[here] - shard.first_row)
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
            found.append(shard.document_column("num_tokens")[local])
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
        return np.concatenate([shard.document_column("num_tokens") for shard in self.shards])

    def row(self, index: int) -> Row:
        """The row at `index`; its tokens are a view into the mapped file."""
        shard = self._shard_of(self._first_rows, index, self.num_rows)
        return shard.row(index - shard.first_row)

    def tokens_of(self, candidate: int) -> np.ndarray:
        """All tokens of a candidate, as a view into the mapped file."""
        shard = self._shard_of(self._first_candidates, candidate, self.num_candidates)
        if self.unit == "row":
            return self.row(candidate).tokens
        return shard.tokens_of_document(candidate - shard.first_document)

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
        rows = shard.rows
        first_row = first = 0
        for first_packed, block in shard.read_documents():
            end_packed = first_packed + len(block)
            if self.unit == "row":
                last_row = bisect_left(rows["document"], end_packed)
                records = rows[first_row:last_row]
                table = block.take(pa.array(records["document"] - first_packed))
                lengths = pa.array(records["length"].astype(np.int64))
                table = table.set_column(4, "num_tokens", lengths)
            else:
                out = slice(*np.searchsorted(shard.dropped, [first_packed, end_packed]))
                stay = np.delete(np.arange(len(block)), shard.dropped[out] - first_packed)
                table = block.take(pa.array(stay)) if len(stay) < len(block) else block
                last_row = bisect_left(rows["document"], first + len(table))
            numbers = shard.first_candidate + first + np.arange(len(table))
            numbered = table.add_column(0, "candidate", pa.array(numbers, pa.int64()))
            yield slice(first_row, last_row), numbered
            first, first_row = first + len(table), last_row

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


def load_examples(folders: Sequence[Path], duplicates: Duplicates, unit: Unit) -> Examples:
    """The examples in the folders of packed pieces, in that order, without what was dropped.

    Args:
        folders: Of all pieces.
        duplicates: Of the same pieces.
        unit: What candidates are.

    Raises:
        DataError: they hold no row at all.
    """
    shards: list[Shard] = []
    first_row = first_document = 0
    for number, (folder, piece) in enumerate(zip(folders, duplicates.pieces, strict=True)):
        dropped = duplicates.dropped_of(number)
        num_documents = int(piece["documents"]) - (len(dropped) if unit == "document" else 0)
        shard = Shard(
            path=folder,
            unit=unit,
            num_rows=int(piece["rows"] - piece["dropped_rows"]),
            num_documents=num_documents,
            first_row=first_row,
            first_document=first_document,
            first_file_row=int(piece["first_file_row"]),
            dropped=dropped,
            dropped_rows=duplicates.dropped_rows_of(number),
        )
        shards.append(shard)
        first_row += shard.num_rows
        first_document += shard.num_documents
    if not first_row:
        raise DataError(
            f"The pool holds no usable document: {len(shards)} pieces were packed to nothing. "
            "See rejected.jsonl in each piece's folder for what was wrong."
        )
    return Examples(tuple(shards), unit, int(duplicates.pieces["tokens"].sum()))


def counted_lengths(examples: Examples) -> np.ndarray | None:
    """Tokens whose prediction counts in each row of a pool of conversations; None: of others."""
    found = []
    for shard in examples.shards:
        if shard.counted is None:
            return None
        rows, ends = shard.rows, np.concatenate([[0], np.cumsum(shard.counted, dtype=np.int64)])
        found.append(ends[rows["start"] + rows["length"]] - ends[rows["start"]])
    return np.concatenate(found)
