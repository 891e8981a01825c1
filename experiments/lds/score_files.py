"""Scores from a file, of an estimator that is not dsdm's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float

from dsdm.errors import DataError

CANDIDATE = "candidate"
SCORE = "score"


def read_scores(
    path: Path, targets: Sequence[str], num_candidates: int
) -> dict[str, Float[np.ndarray, " candidates"]]:
    """The scores for each target in a Parquet or CSV file, in the candidates' order.

    The file has a column `candidate` with the number of each candidate once, in any order, and a
    column of scores for each target, of its name; or one column `score` for all targets. Higher =
    keep.

    Raises:
        DataError: the file can't be read, or a candidate or column is missing or wrong.
    """
    table = _read_table(path)
    rows = _rows_of_candidates(path, _column(path, table, CANDIDATE), num_candidates)
    return {target: _scores(path, table, target)[rows] for target in targets}


def _read_table(path: Path) -> pa.Table:
    readers = {".parquet": pq.read_table, ".csv": pa.csv.read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: scores are read from .parquet and .csv files.")
    try:
        return reader(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: scores can't be read ({error}).") from error


def _rows_of_candidates(path: Path, numbers: np.ndarray, num_candidates: int) -> np.ndarray:
    """The line of each candidate."""
    is_whole = np.issubdtype(numbers.dtype, np.integer)
    if not is_whole or not np.array_equal(np.sort(numbers), np.arange(num_candidates)):
        raise DataError(
            f"{path}: its {len(numbers):,} lines must name each of the candidates 0 to "
            f"{num_candidates - 1:,} once, as whole numbers."
        )
    return np.argsort(numbers)


def _scores(path: Path, table: pa.Table, target: str) -> Float[np.ndarray, " lines"]:
    name = target if target in table.column_names else SCORE
    values = _column(path, table, name)
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise DataError(f"{path}: the column {name!r} holds what is not a finite number.")
    return values.astype(np.float64)


def _column(path: Path, table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        raise DataError(
            f"{path}: has no column {name!r}, only {', '.join(table.column_names)}. It needs "
            f"{CANDIDATE!r}, and a column for each target or one called {SCORE!r}."
        )
    return np.asarray(table[name].to_numpy())
