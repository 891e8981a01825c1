"""The examples in the report of a real run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.datamodel.columns import ScoreColumn, score_field
from dsdm.reporting.sections.examples import ShownExample
from dsdm.reporting.view import RunView, shown_columns
from tests.reporting.conftest import HOSTILE, copy_of, data_of


def groups_of(run: RunView | Path) -> dict[str, list[ShownExample]]:
    data = data_of(run, "examples")
    found: dict[str, dict[int, ShownExample]] = {title: {} for title in data["groups"]}
    for example in data["examples"]:
        for number, rank in example.places:
            found[data["groups"][number]][rank] = example
    return {title: [group[rank] for rank in sorted(group)] for title, group in found.items()}


def test_best_and_worst_are_the_extremes(run):
    table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
    groups = groups_of(run)
    assert groups["Best"][0].score == max(table["ekfac"].to_pylist())
    assert groups["Worst"][0].score == min(table["ekfac"].to_pylist())
    best = groups["Best"][0]
    assert best.id == table["id"][best.candidate].as_py()
    assert best.text == run.examples.text_of(best.candidate, run.tokenizer)
    assert not best.is_cut


def test_the_cut_is_between_two_groups(run):
    groups = groups_of(run)
    above, below = groups["Just above the cut"], groups["Just below the cut"]
    # One of those above may have been too long for what was left of the budget.
    assert sum(e.selected for e in above) > len(above) / 2 > sum(e.selected for e in below)
    scores = [example.score for example in [*above[::-1], *below]]
    assert scores == sorted(scores, reverse=True)


def test_the_best_of_a_source_come_from_it(run):
    found = {title: group for title, group in groups_of(run).items() if title.startswith("Best of")}
    assert {*found} == {"Best of a", "Best of b", f"Best of {HOSTILE}"}
    for title, group in found.items():
        assert {example.source for example in group} == {title.removeprefix("Best of ")}
        assert group[0].score == max(example.score for example in group)


def test_every_score_of_an_example_is_shown(run):
    data = data_of(run, "examples")
    table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
    assert (data["checkpoints"], data["targets"]) == ([0, 1], ["mix"])
    assert data["other_estimators"] == ["gradient"]
    for example in data["examples"]:
        line = table.slice(example.candidate, 1).to_pylist()[0]
        assert example.checkpoint_scores.tolist() == [[line["ekfac.0.mix"]], [line["ekfac.1.mix"]]]
        assert example.other_scores == [line["gradient"]]
        assert example.id == line["id"]


def test_scores_of_each_target_give_it_a_group(run, tmp_path):
    folder = copy_of(run, tmp_path)
    path = folder / "scores" / "all" / "scores.parquet"
    table = pq.read_table(path)
    values = np.linspace(0, 1, len(table)).astype(np.float32)
    for proxy in range(2):
        column = score_field(ScoreColumn("ekfac", proxy, "words"), pa.float32())
        table = table.append_column(column, pa.array(values))
    pq.write_table(table, path, row_group_size=7)
    best = groups_of(folder)["Best for words"]
    assert [example.candidate for example in best] == list(range(len(table)))[::-1][:30]
    assert data_of(folder, "examples")["targets"] == ["words", "mix"]


def test_a_target_may_be_called_as_a_mark_or_the_mix_is():
    columns = [
        ScoreColumn("ekfac"),
        ScoreColumn("ekfac", predicted=True),
        ScoreColumn("ekfac", 0, "qa.mix"),
        ScoreColumn("ekfac", 0, "predicted"),
        ScoreColumn("ekfac", 10),
        ScoreColumn("ekfac", 2),
        ScoreColumn("ekfac", 0, "predicted[3]", is_example=True),
    ]
    fields = [pa.field("candidate", pa.int64()), *(score_field(c, pa.float32()) for c in columns)]
    assert shown_columns(pa.schema(fields)) == [columns[i] for i in (0, 5, 4, 3, 2)]
