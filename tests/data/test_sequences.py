"""Rows that are too many for an array of all their lengths."""

import numpy as np
import pytest

from dsdm.data.sequences import AllBut, Row, Subset, lengths_of, num_rows
from tests.conftest import ListRows

ROWS = ListRows([Row(np.arange(length)) for length in (3, 1, 4, 1, 5, 9, 2, 6)])


@pytest.mark.parametrize("left_out", [[], [0], [6], [0, 1, 2], [1, 3, 5], [4, 5, 6], range(7)])
def test_all_but_a_few_are_those_that_are_left(left_out: list[int]) -> None:
    few = np.array(left_out, np.int64)
    left = [number for number in range(7) if number not in left_out]
    rows = AllBut(ROWS, 7, few)
    assert num_rows(rows) == len(left)
    assert rows.originals(np.arange(len(left))).tolist() == left
    assert rows.lengths.tolist() == [len(ROWS.row(number).tokens) for number in left]
    assert [len(rows.row(index).tokens) for index in range(len(left))] == rows.lengths.tolist()


def test_a_subset_of_them_has_its_own_lengths() -> None:
    some = Subset(AllBut(ROWS, 7, np.array([1, 3])), np.array([4, 0, 4]))
    assert some.lengths.tolist() == [2, 3, 2]
    assert lengths_of(some, np.array([1])).tolist() == [3]
    assert len(some.row(0).tokens) == 2
