"""Scores of an estimator from outside."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from lds.score_files import read_scores

from dsdm.errors import DataError


def write(path, columns):
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv"])
def test_scores_are_in_the_candidates_order(tmp_path, name):
    columns = {"candidate": [2, 0, 1], "squad": [0.5, 1.5, -2.0], "score": [1, 2, 3]}
    found = read_scores(write(tmp_path / name, columns), ["squad", "lambada"], 3)
    assert {target: values.tolist() for target, values in found.items()} == {
        "squad": [1.5, -2.0, 0.5],
        "lambada": [2, 3, 1],
    }
    assert found["lambada"].dtype == np.float64


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"squad": [1.0, 2.0]}, "has no column 'candidate', only squad"),
        ({"candidate": [0, 1], "other": [1.0, 2.0]}, "has no column 'score'"),
        ({"candidate": [0, 0], "score": [1.0, 2.0]}, "candidates 0 to 1 once"),
        ({"candidate": [0, 1, 2], "score": [1.0] * 3}, "its 3 lines must name"),
        ({"candidate": ["a", "b"], "score": [1.0, 2.0]}, "candidates 0 to 1 once"),
        ({"candidate": [0, 1], "score": [1.0, np.nan]}, "'score' holds what is not a finite"),
        ({"candidate": [0, 1], "score": ["a", "b"]}, "'score' holds what is not a finite"),
        ({"candidate": [0, 1], "score": [1.0, None]}, "'score' holds what is not a finite"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        read_scores(write(tmp_path / "scores.parquet", columns), ["squad"], 2)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"")
    for name, message in (
        ("scores.txt", r"\.parquet and \.csv"),
        ("none.parquet", "can't be read"),
        ("scores.csv", "can't be read"),
    ):
        with pytest.raises(DataError, match=message):
            read_scores(tmp_path / name, ["squad"], 2)
