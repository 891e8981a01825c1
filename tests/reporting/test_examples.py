"""Examples: each once, and no more text than a page holds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdm.reporting.sections.examples import fair_limit, fit_texts
from dsdm.reporting.text import page_bytes
from tests.reporting.hostile_pages import example


def literal_limit(sizes, total):
    """Tries every limit."""
    fitting = [
        limit
        for limit in range(max(sizes, default=0) + 1)
        if sum(min(size, limit) for size in sizes) <= total
    ]
    return max(fitting)


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(0, 200))
def test_the_limit_is_the_largest_that_fits(sizes, total):
    assert fair_limit(sizes, total) == literal_limit(sizes, total)


def test_short_texts_leave_their_room_to_long_ones():
    texts = fit_texts(["a" * 10, "b" * 500, "c" * 300], longest=400, total=510)
    assert [len(text) for text in texts] == [10, 250, 250]


def test_hostile_texts_count_as_they_stand_in_the_page():
    texts = fit_texts(["<" * 1000, "\x00" * 1000, "日" * 1000], longest=400, total=900)
    assert all(200 < page_bytes(text) <= 300 for text in texts)


def test_scores_of_a_target_are_means_over_the_checkpoints_that_have_them():
    scores = np.array([[1.0, math.nan, math.nan], [2.0, 5.0, math.nan]])
    assert example(0, checkpoint_scores=scores).target_scores == pytest.approx(
        [1.5, 5.0, math.nan], nan_ok=True
    )
