"""Rows of tokens, apart from torch so that the command line starts at once."""

from bisect import bisect_right
from collections.abc import Sized
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Row:
    """One sequence: a packed example, or a target's context followed by its answer."""

    tokens: np.ndarray
    """Token ids, any integer type, shape (length,)."""
    answer_start: int = 1
    """Position of the first token whose prediction counts; the first token has no prediction."""
    counted: np.ndarray | None = None
    """Which predictions count, bool, shape (length,); None: all from `answer_start` on."""

    @property
    def is_counted(self) -> np.ndarray:
        """Which tokens' predictions count, bool, shape (length,)."""
        if self.counted is not None:
            return self.counted
        return np.arange(len(self.tokens)) >= max(self.answer_start, 1)


@runtime_checkable
class Rows(Protocol):
    """A sequence of rows whose lengths are known without reading them."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        ...

    def row(self, index: int) -> Row:
        """The row at `index`."""
        ...


@runtime_checkable
class ManyRows(Sized, Protocol):
    """What rows have that may be too many for an array of all their lengths."""

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens in some of the rows, shape (indices,)."""
        ...


def lengths_of(rows: Rows, indices: np.ndarray) -> np.ndarray:
    """Tokens in some of the rows, shape (indices,)."""
    if isinstance(rows, ManyRows):
        return rows.lengths_of(indices)
    return np.asarray(rows.lengths[indices])


def num_rows(rows: Rows) -> int:
    """How many rows there are."""
    return len(rows) if isinstance(rows, ManyRows) else len(rows.lengths)


@dataclass(frozen=True)
class WholeRows:
    """The same rows, in which the context's predictions count as the answer's do."""

    rows: Rows

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        return self.rows.lengths

    def row(self, index: int) -> Row:
        """The row at `index`, all of it answer."""
        return Row(self.rows.row(index).tokens)


@dataclass(frozen=True)
class Subset:
    """Some rows of another source, in the order of `indices`; indices may repeat."""

    rows: Rows
    indices: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        return lengths_of(self.rows, self.indices)

    def row(self, index: int) -> Row:
        """The row at `index` of the subset."""
        return self.rows.row(int(self.indices[index]))


@dataclass(frozen=True)
class AllBut:
    """The first `end` rows of another source, in order, without a few."""

    rows: Rows
    end: int
    left_out: np.ndarray
    """Sorted row numbers below `end`."""

    def __len__(self) -> int:
        """How many rows are left."""
        return self.end - len(self.left_out)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens in some of the rows, shape (indices,)."""
        return lengths_of(self.rows, self.originals(indices))

    def originals(self, indices: np.ndarray) -> np.ndarray:
        """What rows the other source has at these indices."""
        return numbers_without(self.left_out, indices)

    def row(self, index: int) -> Row:
        """The row at `index` of those that are left."""
        return self.rows.row(int(self.originals(np.array([index]))[0]))


def numbers_without(left_out: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The numbers at `indices` among all from 0 but the sorted `left_out`."""
    # As many numbers are left before the k-th that is left out as that number less k.
    left_before = left_out - np.arange(len(left_out))
    numbers: np.ndarray = indices + np.searchsorted(left_before, indices, side="right")
    return numbers


def number_without(left_out: np.ndarray, index: int) -> int:
    """The same for one index, without reading all of `left_out`."""
    return index + bisect_right(range(len(left_out)), index, key=lambda k: int(left_out[k]) - k)
