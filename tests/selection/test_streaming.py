"""The streamed choice against the rule as it is written, one candidate at a time."""

from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdm.errors import ArtifactError, ConfigError, DataError, NumericalError
from dsdm.selection import Scores, SelectionConfig, select, streaming
from dsdm.selection.score_files import read_scores, write_chosen
from dsdm.selection.streaming import is_plain, select_streaming, take_best

# 0.0 and -0.0 tie; the others are near each other, far apart, or denormal.
VALUES = [0.0, -0.0, 1.0, np.nextafter(1.0, 2.0), -1.0, 1e-310, 1e30, -1e30, 0.5, 2.0]


def in_blocks(values, num_tokens, size):
    """A `Read` of arrays, `size` candidates at a time."""

    def read():
        for start in range(0, len(values), size):
            yield values[start : start + size], num_tokens[start : start + size]

    return read


def one_by_one(values, num_tokens, config, *, bottom=False, refused=()):
    """`select`, with a rule that keeps it from its fast path."""
    n = len(values)
    names = ("web",)
    scores = Scores(values, num_tokens, np.zeros(n, np.int32), names, "test", "mix", "0")
    is_refused = frozenset(refused).__contains__
    return select(scores, config, bottom=bottom, is_refused=is_refused)


@st.composite
def pools(draw):
    n = draw(st.integers(1, 40))
    pick = st.one_of(st.sampled_from(VALUES), st.integers(-3, 3).map(float))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = np.array(draw(st.lists(pick, min_size=n, max_size=n)), dtype)
    num_tokens = np.array(draw(st.lists(st.integers(1, 30), min_size=n, max_size=n)))
    return values, num_tokens


def budgets(num_tokens):
    return st.one_of(
        st.builds(dict, candidates=st.integers(1, len(num_tokens))),
        st.builds(dict, tokens=st.integers(1, int(num_tokens.sum()))),
    )


@settings(deadline=None)  # a histogram has 65,536 bins however few the candidates are
@given(st.data(), pools(), st.booleans(), st.integers(5, 40), st.integers(1, 9))
def test_streaming_chooses_what_select_chooses(data, pool, bottom, size, window):
    values, num_tokens = pool
    share = data.draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    config = SelectionConfig(**data.draw(budgets(num_tokens)), random_share=share)
    refused = np.array(sorted(data.draw(st.sets(st.integers(0, len(values) - 1), max_size=5))), int)
    expected = one_by_one(values, num_tokens, config, bottom=bottom, refused=refused.tolist())
    with mock.patch.object(streaming, "WINDOW", window):
        chosen = select_streaming(
            in_blocks(values, num_tokens, size),
            config,
            method="test",
            bottom=bottom,
            refused=refused,
        )
    assert np.flatnonzero(chosen.is_chosen).tolist() == expected.tolist()
    assert chosen.num_tokens == num_tokens[expected].sum()
    assert chosen.pool_tokens == num_tokens.sum()


@pytest.mark.parametrize("ties", [3, 1000, 10**9])
@pytest.mark.parametrize("window", [100, 1 << 20])
def test_streaming_chooses_what_select_chooses_of_many(ties, window):
    rng = np.random.default_rng(0)
    values = rng.integers(0, ties, 30_000).astype(np.float32)
    num_tokens = rng.integers(1, 500, 30_000)
    config = SelectionConfig(fraction=0.2)
    with mock.patch.object(streaming, "WINDOW", window):
        chosen = select_streaming(in_blocks(values, num_tokens, 700), config, method="test")
    expected = one_by_one(values, num_tokens, config)
    np.testing.assert_array_equal(np.flatnonzero(chosen.is_chosen), expected)


def test_most_pools_take_two_passes_over_the_keys():
    rng = np.random.default_rng(0)
    keys, costs, passes = rng.normal(size=30_000), np.full(30_000, 7), []

    def read():
        passes.append(1)
        yield keys, costs

    is_chosen = np.zeros(30_000, bool)
    assert take_best(read, 70_001, is_chosen) == 70_000
    assert is_chosen.sum() == 10_000
    assert len(passes) == 2


def test_what_is_chosen_already_is_left_alone():
    keys, costs = np.array([1.0, 2.0, 3.0]), np.array([5, 5, 5])
    is_chosen = np.array([True, False, False])
    assert take_best(in_blocks(keys, costs, 2), 5, is_chosen) == 5
    assert is_chosen.tolist() == [True, True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_stops_the_selection(bad):
    values, num_tokens = np.array([1.0, 2.0, 3.0, bad, bad], np.float32), np.ones(5, int)
    with pytest.raises(NumericalError, match=r"'test' gave 2 of 5 .* candidate 3 with"):
        select_streaming(
            in_blocks(values, num_tokens, 2), SelectionConfig(candidates=1), method="test"
        )


def test_a_budget_that_no_pool_meets_is_an_error():
    read = in_blocks(np.array([1.0, 2.0]), np.array([3, 3]), 1)
    with pytest.raises(DataError, match=r"7 tokens, but the pool has only 6"):
        select_streaming(read, SelectionConfig(tokens=7.0), method="test")
    with pytest.raises(ConfigError, match="give at least 1"):
        select_streaming(read, SelectionConfig(tokens=0.5), method="test")


@pytest.mark.parametrize(
    "rule",
    [
        {"source_cap": 0.5},
        {"source_floor": {"web": 0.1}},
        {"temperature": 0.5},
        {"near_duplicates": 0.8},
    ],
)
def test_other_rules_are_not_streamed(rule):
    config = SelectionConfig(candidates=1, **rule)
    assert not is_plain(config)
    with pytest.raises(ValueError, match="no other rule"):
        select_streaming(in_blocks(np.ones(2), np.ones(2, int), 1), config, method="test")


@pytest.fixture
def scores_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "candidate": np.arange(500),
            "id": [f"id-{n}" for n in range(500)],
            "source": [["web", "books"][n % 2] for n in range(500)],
            "num_tokens": rng.integers(1, 99, 500),
            "ekfac": rng.normal(size=500).astype(np.float32),
        }
    )
    pq.write_table(table, tmp_path / "scores.parquet", row_group_size=60)
    return tmp_path / "scores.parquet"


def test_a_file_is_chosen_from_as_a_table_is(scores_file, tmp_path):
    table = pq.read_table(scores_file)
    config = SelectionConfig(fraction=0.1)
    values, num_tokens = table["ekfac"].to_numpy(), table["num_tokens"].to_numpy()
    expected = one_by_one(values, num_tokens, config)
    with mock.patch("dsdm.selection.score_files.ROWS", 50):
        chosen = select_streaming(read_scores(scores_file, "ekfac"), config, method="ekfac")
        columns = ["candidate", "id", "source", "num_tokens"]
        write_chosen(scores_file, columns, "ekfac", chosen.is_chosen, tmp_path / "out.parquet")
    wanted = table.take(pa.array(expected)).rename_columns([*columns, "score"])
    assert pq.read_table(tmp_path / "out.parquet").equals(wanted)


def test_groups_without_a_chosen_line_are_passed_over(scores_file, tmp_path):
    is_chosen = np.zeros(500, bool)
    is_chosen[[70, 71, 499]] = True
    write_chosen(scores_file, ["candidate"], "ekfac", is_chosen, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["candidate"].to_pylist() == [70, 71, 499]
    write_chosen(scores_file, ["candidate"], "ekfac", is_chosen & False, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["candidate", "score"]


def test_a_file_without_the_method_is_an_error(scores_file, tmp_path):
    with pytest.raises(ArtifactError, match=r"scores.parquet: it has no column 'trak'"):
        list(read_scores(scores_file, "trak")())
    with pytest.raises(ArtifactError, match="can't be read"):
        list(read_scores(tmp_path / "none.parquet", "trak")())
