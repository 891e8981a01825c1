"""Documents of a packed pool that are copies of earlier ones, found over all its pieces.

Of documents with the same content the first in the pool's order stays, and the others are
duplicates. Of those that are left, the first with an id of its own stays, and others with that id
are rejected. The result does not depend on where the pool was cut into pieces.

The sorted hashes that packing left are merged range by range of the hashes, so that memory holds
one range of them, and one byte for each document. Files are opened one after another.

The folder that `find_duplicates` writes holds
    pieces.npy         where each piece stands and what is left of it, see PIECE
    dropped.npy        documents that are left out, numbered within their pieces, piece by piece
    dropped_rows.npy   rows of tokens that are left out, the same
    rejected.jsonl     documents that are left out for their ids
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.arrays import map_array
from dsdm.data.documents import Rejected
from dsdm.data.packing import (
    DUPLICATE_ID,
    HASH,
    REJECTED,
    PackCounts,
    check_rejected,
    load_counts,
    write_rejected,
)
from dsdm.data.rows import Unit
from dsdm.errors import ArtifactError

PARTITION_HASHES = 8 << 20
"""Hashes that are sorted at a time."""
PIECE = np.dtype(
    [
        ("first_file_row", "<i8"),  # rows of the file before the piece
        ("documents", "<i8"),  # that were packed
        ("rows", "<i8"),  # that were packed
        ("dropped_documents", "<i8"),
        ("dropped_rows", "<i8"),
        ("tokens", "<i8"),  # in the rows that stay
    ]
)


class DuplicateCounts(msgspec.Struct):
    """What was left out."""

    duplicates: int
    """Documents whose content an earlier one has, in the same piece or another."""
    rejected: int
    """Documents whose id an earlier one has."""
    documents: int
    """That stay."""
    rows: int
    """Rows of tokens that stay."""
    tokens: int
    """In these rows."""


@dataclass(frozen=True)
class Duplicates:
    """What is left out of the pieces of a pool, and where each piece stands in its file."""

    pieces: np.ndarray
    """Records of PIECE, in the pool's order."""
    dropped: np.ndarray
    """Documents, int64, numbered within their pieces and sorted, piece by piece."""
    dropped_rows: np.ndarray
    """Rows of tokens, the same."""

    def dropped_of(self, piece: int) -> np.ndarray:
        """The sorted documents of a piece that are left out."""
        return self.dropped[slice(*self._document_bounds[piece : piece + 2])]

    def dropped_rows_of(self, piece: int) -> np.ndarray:
        """The sorted rows of a piece that are left out."""
        return self.dropped_rows[slice(*self._row_bounds[piece : piece + 2])]

    def num_candidates(self, unit: Unit) -> int:
        """Rows or documents that stay, in all pieces."""
        name = "rows" if unit == "row" else "documents"
        return int((self.pieces[name] - self.pieces[f"dropped_{name}"]).sum())

    @cached_property
    def _document_bounds(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.pieces["dropped_documents"])])

    @cached_property
    def _row_bounds(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.pieces["dropped_rows"])])


Pool = tuple[Sequence[Path], Duplicates]
"""Folders of the pieces of a packed pool, and its duplicates."""


def find_duplicates(
    folders: Sequence[Path],
    unit: Unit,
    max_rejected_share: float,
    folder: Path,
    *,
    against: Sequence[Pool] = (),
    rejected_path: Path | None = None,
    advance: Callable[[int], None] = lambda num_pieces: None,
    partition_hashes: int = PARTITION_HASHES,
) -> DuplicateCounts:
    """Writes which documents of a pool are left out into a folder, for `load_duplicates`.

    Args:
        folders: Of all packed pieces, in the pool's order.
        unit: What candidates are. A row is left out with its document or, where rows are
            candidates, where at least half of its tokens are of documents that are left out.
        max_rejected_share: Largest share of a file's records that may be unusable.
        folder: An empty folder.
        against: Pools whose documents count as earlier.
        rejected_path: Where the rejected records of a file are listed if they are too many; None:
            beside the folder.
        advance: Called with the number of pieces that are done.
        partition_hashes: Hashes that are sorted at a time.

    Raises:
        DataError: too large a share of a file's records is unusable.
        ArtifactError: a piece is missing or damaged.
    """
    counts = [load_counts(path) for path in folders]
    firsts = np.concatenate([[0], np.cumsum([one.documents for one in counts])]).astype(np.int64)
    is_dropped = np.zeros(firsts[-1], bool)
    for documents in _repeats(folders, "hashes.npy", firsts, against, is_dropped, partition_hashes):
        is_dropped[documents] = True
    num_copies = int(is_dropped.sum())
    has_old_id = np.zeros(firsts[-1], bool)
    for documents in _repeats(
        folders, "id_hashes.npy", firsts, against, is_dropped, partition_hashes
    ):
        has_old_id[documents] = True
    is_dropped |= has_old_id

    pieces = np.zeros(len(folders), PIECE)
    dropped, dropped_rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    of_file: list[tuple[Path, PackCounts]] = []
    rejected_of_file: list[Rejected] = []
    first_row = 0
    list_path = rejected_path or folder.with_name(f"rejected-{folder.name}.jsonl")
    with (folder / REJECTED).open("w", encoding="utf-8") as rejects:
        for number, (path, one) in enumerate(zip(folders, counts, strict=True)):
            if one.piece == 0:
                of_file, rejected_of_file, first_row = [], [], 0
            here = slice(*firsts[number : number + 2])
            out = np.flatnonzero(is_dropped[here])
            rows_out, tokens_out = _rows_without(path, out, unit)
            rejected = _rejections(path, one.file, first_row, np.flatnonzero(has_old_id[here]))
            for record in rejected:
                write_rejected(rejects, record)
            tokens = one.tokens - tokens_out
            pieces[number] = (first_row, one.documents, one.rows, len(out), len(rows_out), tokens)
            dropped.append(out)
            dropped_rows.append(rows_out)
            of_file.append((path, one))
            rejected_of_file += rejected
            first_row += one.file_rows
            if one.is_last:
                check_rejected(of_file, max_rejected_share, rejected_of_file, list_path)
            advance(1)
    np.save(folder / "pieces.npy", pieces)
    np.save(folder / "dropped.npy", np.concatenate(dropped))
    np.save(folder / "dropped_rows.npy", np.concatenate(dropped_rows))
    return DuplicateCounts(
        duplicates=num_copies + sum(one.duplicates for one in counts),
        rejected=int(has_old_id.sum()),
        documents=int((~is_dropped).sum()),
        rows=int((pieces["rows"] - pieces["dropped_rows"]).sum()),
        tokens=int(pieces["tokens"].sum()),
    )


def load_duplicates(folder: Path) -> Duplicates:
    """What `find_duplicates` wrote.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        pieces = np.load(folder / "pieces.npy")
        dropped, dropped_rows = (
            map_array(folder / name) for name in ("dropped.npy", "dropped_rows.npy")
        )
        if pieces.dtype != PIECE:
            raise ValueError("pieces.npy has other fields")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{folder}: can't be read ({error}). Delete it.") from error
    return Duplicates(pieces, dropped, dropped_rows)


def join_duplicates(parts: Sequence[Duplicates]) -> Duplicates:
    """What is left out of the pieces of several pools, one pool after the other."""
    return Duplicates(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("pieces", "dropped", "dropped_rows")
        )
    )


def no_duplicates(folders: Sequence[Path]) -> Duplicates:
    """Those of packed pieces of which nothing is left out."""
    pieces = np.zeros(len(folders), PIECE)
    first_row = 0
    for number, counts in enumerate(map(load_counts, folders)):
        first_row = first_row if counts.piece else 0
        pieces[number] = (first_row, counts.documents, counts.rows, 0, 0, counts.tokens)
        first_row += counts.file_rows
    return Duplicates(pieces, np.zeros(0, np.int64), np.zeros(0, np.int64))


def _repeats(
    folders: Sequence[Path],
    name: str,
    firsts: np.ndarray,
    against: Sequence[Pool],
    is_dropped: np.ndarray,
    partition_hashes: int,
) -> Iterator[np.ndarray]:
    """Documents whose hash in the files `name` an earlier document has, in parts.

    Documents are numbered over the whole pool. Those that are dropped already count for nothing.
    """
    earlier = [
        (path / name, pool[1].dropped_of(number))
        for pool in against
        for number, path in enumerate(pool[0])
    ]
    own = [path / name for path in folders]
    total = sum(len(_map(path)) for path in [*(path for path, _ in earlier), *own])
    num_parts = max(1, -(-total // partition_hashes))
    bounds = [(part << 64) // num_parts for part in range(num_parts)]
    for low, high in zip(bounds, [*bounds[1:], 1 << 64], strict=True):
        hashes, documents = [], []
        for path, out in earlier:
            found = _between(path, low, high)
            found = found[~np.isin(found["document"], out)]
            hashes.append(found["hash"])
            documents.append(np.full(len(found), -1))
        for path, first in zip(own, firsts, strict=False):
            found = _between(path, low, high)
            numbers = found["document"].astype(np.int64) + first
            is_left = ~is_dropped[numbers]
            hashes.append(found["hash"][is_left])
            documents.append(numbers[is_left])
        yield _after_first(np.concatenate(hashes), np.concatenate(documents))


def _after_first(hashes: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The documents whose hash stands before them too; those numbered -1 are not told."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    found: np.ndarray = documents[order[1:][hashes[1:] == hashes[:-1]]]
    return found[found >= 0]


def _between(path: Path, low: int, high: int) -> np.ndarray:
    """A copy of those entries of a file of sorted hashes that are from `low` to below `high`."""
    entries = _map(path)
    # A search by numpy would copy the whole column.
    start, end = (
        bisect_left(entries, bound, key=itemgetter("hash")) if 0 < bound < 1 << 64 else edge
        for bound, edge in ((low, 0), (high, len(entries)))
    )
    return entries[start:end].copy()


def _map(path: Path) -> np.ndarray:
    try:
        entries = map_array(path)
        if entries.dtype != HASH:
            raise ValueError(f"{path.name} holds no hashes")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{path.parent}: the shard can't be read ({error}). Delete it."
        ) from error
    return entries


def _rows_without(folder: Path, out: np.ndarray, unit: Unit) -> tuple[np.ndarray, int]:
    """Rows of a piece that go where documents are left out, and the tokens in these rows."""
    if not len(out):
        return out, 0
    rows = map_array(folder / "rows.npy")
    lengths = rows["length"].astype(np.int64)
    if unit == "document":
        goes = np.isin(rows["document"], out)
    else:
        about = pq.read_table(folder / "documents.parquet", columns=["start", "num_tokens"])
        starts, sizes = (about[name].to_numpy()[out] for name in ("start", "num_tokens"))
        before = np.concatenate([[0], np.cumsum(sizes)])

        def tokens_out_before(position: np.ndarray) -> np.ndarray:
            last = np.searchsorted(starts, position, side="right") - 1
            inside = np.minimum(position - starts[last], sizes[last])
            return np.where(last >= 0, before[last] + inside, 0)

        tokens_out = tokens_out_before(rows["start"] + lengths) - tokens_out_before(rows["start"])
        goes = 2 * tokens_out >= lengths
    return np.flatnonzero(goes), int(lengths[goes].sum())


def _rejections(folder: Path, file: str, first_row: int, documents: np.ndarray) -> list[Rejected]:
    """The rejects of a piece's documents whose ids are old."""
    if not len(documents):
        return []
    table = pq.read_table(folder / "documents.parquet", columns=["id", "file_row"])
    lines = table.take(pa.array(documents)).to_pylist()
    return [
        Rejected(file, line["file_row"] + first_row, DUPLICATE_ID, line["id"]) for line in lines
    ]
