"""The examples in the report of a real run."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.pipeline.report import collect_report
from dsdm.pipeline.report_scores import scored_columns
from dsdm.report.examples import ShownExample
from dsdm.stages import Run
from tests.pipeline.conftest import HOSTILE, copy_of


def groups_of(run: Run) -> dict[str, list[ShownExample]]:
    browser = collect_report(run.folder).examples
    by_candidate = {example.candidate: example for example in browser.examples}
    return {group.title: [by_candidate[c] for c in group.candidates] for group in browser.groups}


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
    browser = collect_report(run.folder).examples
    table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
    assert (browser.proxies, browser.targets) == (["0", "1"], ["mix"])
    assert browser.other_methods == ["gradient"]
    for example in browser.examples:
        line = table.slice(example.candidate, 1).to_pylist()[0]
        assert example.proxy_scores.tolist() == [[line["ekfac.0.mix"]], [line["ekfac.1.mix"]]]
        assert example.other_scores == [line["gradient"]]
        assert example.id == line["id"]


def test_scores_of_each_target_give_it_a_group(run, tmp_path):
    folder = copy_of(run, tmp_path)
    path = folder / "scores" / "all" / "scores.parquet"
    table = pq.read_table(path)
    values = np.linspace(0, 1, len(table)).astype(np.float32)
    for proxy in "01":
        table = table.append_column(f"ekfac.{proxy}.words", pa.array(values))
    pq.write_table(table, path, row_group_size=7)
    browser = collect_report(folder).examples
    (group,) = [group for group in browser.groups if group.kind == "target"]
    assert group.title == "Best for words"
    assert group.candidates == list(range(len(table)))[::-1][:30]
    assert browser.targets == ["words", "mix"]
    assert {example.candidate for example in browser.examples} >= {*group.candidates}


def test_a_target_may_be_called_as_the_mark_of_a_screening_is():
    names = ["candidate", "ekfac", "ekfac.predicted", "ekfac.0.mix", "ekfac.0.predicted"]
    assert scored_columns(names) == ["ekfac", "ekfac.0.mix", "ekfac.0.predicted"]
