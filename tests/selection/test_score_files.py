from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsdm.errors import ArtifactError
from dsdm.selection import SelectionConfig, choose, concat_scores, select
from dsdm.selection.score_files import load_scores, write_chosen


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


def test_a_file_is_read_as_a_table_is(scores_file: Path) -> None:
    table, scores = pq.read_table(scores_file), load_scores([scores_file], "ekfac")
    np.testing.assert_array_equal(scores.values, table["ekfac"].to_numpy())
    np.testing.assert_array_equal(scores.num_tokens, table["num_tokens"].to_numpy())
    assert [scores.source_names[code] for code in scores.sources] == table["source"].to_pylist()
    bare = load_scores([scores_file], "ekfac", with_sources=False)
    config = SelectionConfig(fraction=0.1)
    np.testing.assert_array_equal(select(bare, config), select(scores, config))


def test_two_files_are_read_as_their_tables_one_after_the_other(scores_file: Path) -> None:
    one, two = load_scores([scores_file], "ekfac"), load_scores([scores_file] * 2, "ekfac")
    joined = concat_scores([one, one])
    for found in (two, joined):
        np.testing.assert_array_equal(found.values, np.tile(one.values, 2))
        np.testing.assert_array_equal(found.sources, np.tile(one.sources, 2))
    assert two.source_names == joined.source_names == one.source_names


def test_the_chosen_lines_are_written_with_their_scores(scores_file: Path, tmp_path: Path) -> None:
    table = pq.read_table(scores_file)
    is_chosen = choose(load_scores([scores_file], "ekfac"), SelectionConfig(fraction=0.1))
    columns = ["candidate", "id", "source", "num_tokens"]
    write_chosen([scores_file], columns, "ekfac", is_chosen, tmp_path / "out.parquet")
    wanted = table.filter(pa.array(is_chosen)).rename_columns([*columns, "score"])
    assert pq.read_table(tmp_path / "out.parquet").equals(wanted)


def test_the_chosen_lines_of_two_files_are_written_one_after_the_other(
    scores_file: Path, tmp_path: Path
) -> None:
    is_chosen = np.zeros(1000, bool)
    is_chosen[[3, 499, 500, 999]] = True
    out = tmp_path / "out.parquet"
    write_chosen([scores_file, scores_file], ["candidate"], "ekfac", is_chosen, out)
    assert pq.read_table(out)["candidate"].to_pylist() == [3, 499, 500, 999]


def test_groups_without_a_chosen_line_are_passed_over(scores_file: Path, tmp_path: Path) -> None:
    is_chosen = np.zeros(500, bool)
    is_chosen[[70, 71, 499]] = True
    write_chosen([scores_file], ["candidate"], "ekfac", is_chosen, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["candidate"].to_pylist() == [70, 71, 499]
    write_chosen([scores_file], ["candidate"], "ekfac", is_chosen & False, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["candidate", "score"]


def test_a_file_without_the_method_is_an_error(scores_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"scores.parquet: it has no column 'trak'"):
        load_scores([scores_file], "trak")
    with pytest.raises(ArtifactError, match="can't be read"):
        load_scores([tmp_path / "none.parquet"], "trak")
