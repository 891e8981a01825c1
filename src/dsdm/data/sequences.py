"""Rows of tokens, apart from torch so that the command line starts at once."""

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
        return np.asarray(self.rows.lengths[self.indices])

    def row(self, index: int) -> Row:
        """The row at `index` of the subset."""
        return self.rows.row(int(self.indices[index]))
