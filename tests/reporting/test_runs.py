"""The report and the summary of real runs, finished and not."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsdm.artifacts import load_manifest, write_json, writing
from dsdm.checking.measured import Check, Measurements, Verdict
from dsdm.cli import main
from dsdm.errors import ArtifactError
from dsdm.evaluation.intervals import Interval
from dsdm.experiment import load_experiment
from dsdm.reporting.page import collect_page, render_page, write_run_report
from dsdm.reporting.summary import summary_lines
from dsdm.reporting.text import number
from dsdm.reporting.view import RunView, open_run
from dsdm.stages.check import CHECK
from tests.reporting.conftest import HOSTILE, copy_of, data_of
from tests.tiny_runs import write_experiment


def test_the_report_counts_what_the_manifests_count(run):
    selected = collect_page(run).header.selected
    counts = load_manifest(run.folder / "selection").counts
    assert selected["candidates"] == counts["candidates"] == len(run.selected)
    assert selected["pool_tokens"] == counts["pool_tokens"]
    pool = data_of(run, "pool")
    assert pool["counts"]["documents"] == 90
    assert pool["counts"]["duplicates"] == 1
    assert sum(pool["rejections"].values()) == pool["counts"]["rejected"] == 1
    assert list(data_of(run, "overlap")["targets"]) == ["words"]


def test_shares_of_sources_sum_to_one(run):
    sources = data_of(run, "sources")["sources"]
    assert sum(source.selected_share for source in sources) == pytest.approx(1)
    assert sum(source.pool_share for source in sources) == pytest.approx(1)
    assert sum(source.pool_candidates for source in sources) == 90
    assert HOSTILE in [source.name for source in sources]


def test_agreement_is_reported_for_each_estimator(run):
    agreement = data_of(run, "agreement")
    assert {(line.estimator, line.between) for line in agreement["means"]} == {
        ("ekfac", "proxies"),
        ("gradient", "proxies"),
    }
    # Two of each: over the candidates and over the calibration rows.
    assert len(agreement["means"]) == 4
    assert [str(one) for one in agreement["matrices"][0].columns[:2]] == ["ekfac", "gradient"]


def test_every_direction_has_its_calibration(run):
    lines = data_of(run, "calibration")["lines"]
    assert [(line["estimator"], line["checkpoint"]) for line in lines] == [
        ("ekfac", 0),
        ("ekfac", 1),
        ("gradient", 0),
        ("gradient", 1),
    ]


def costs_of(run):
    return {cost.stage: cost for cost in data_of(run, "cost")["stages"]}


def test_costs_are_sums_over_artifacts(run):
    costs = costs_of(run)
    files = [run.folder / "proxies" / name / "_cost.json" for name in "01"]
    expected = [json.loads(file.read_text()) for file in files]
    assert costs["proxies"].artifacts == 2
    assert costs["proxies"].flops == sum(cost["flops"] for cost in expected)
    assert "times the FLOPs of training one target model" in data_of(run, "cost")["note"]


def test_what_one_pass_made_together_counts_once(run, tmp_path):
    folder = copy_of(run, tmp_path)
    before = costs_of(folder)
    for path in (folder / "scores").rglob("_cost.json"):
        write_json(path, json.loads(path.read_text()) | {"made_with": 2})
    after = costs_of(folder)
    assert after["scores"].flops == before["scores"].flops / 2 > 0
    assert after["proxies"] == before["proxies"]


def test_costs_are_shares_of_one_target_training(run):
    costs = costs_of(run)
    assert costs["models"].trainings == pytest.approx(costs["models"].artifacts)
    assert costs["proxies"].trainings == pytest.approx(
        4 * costs["proxies"].flops / costs["models"].flops
    )


def test_the_page_is_the_same_when_written_again(run, tmp_path):
    folder = copy_of(run, tmp_path)
    first = write_run_report(folder).read_bytes()
    assert write_run_report(folder).read_bytes() == first
    assert not list(folder.glob(".*.draft"))


def test_figures_and_tables_are_beside_the_page_as_data(run, tmp_path):
    folder = copy_of(run, tmp_path)
    write_run_report(folder)
    data = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    page = collect_page(open_run(folder))
    assert list(data) == ["run", *(section.name for section, _ in page.sections)]
    assert data["run"]["selected"]["candidates"] == page.header.selected["candidates"]
    assert [cost["stage"] for cost in data["cost"]["stages"]] == list(costs_of(folder))
    assert len(data["examples"]["examples"]) == len(data_of(folder, "examples")["examples"])
    assert data["comparison"][0]["targets"][0]["name"] == "words"


def test_pool_text_is_inert_in_the_page(run, tmp_path):
    page = write_run_report(copy_of(run, tmp_path)).read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }}" in page
    assert "\x07" not in page


def test_a_run_folder_is_enough_wherever_it_is(run, tmp_path, monkeypatch):
    folder = copy_of(run, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsdm.stages.pool.list_pool_files", None)
    assert write_run_report(Path("copy")) == Path("copy/report.html")
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    "gone",
    [
        ["selection", "dataset", "models", "evaluations"],
        ["scores", "selection"],
        ["directions", "scores", "selection", "evaluations"],
        ["examples", "targets", "overlap", "directions", "scores", "selection", "models"],
    ],
)
def test_an_unfinished_run_has_a_report(run, tmp_path, gone):
    folder = copy_of(run, tmp_path)
    for stage in gone:
        shutil.rmtree(folder / stage)
    page = write_run_report(folder).read_text(encoding="utf-8")
    assert "Nothing is selected yet" in page
    assert ('id="sources"' in page) == ("scores" not in gone)


def test_a_selection_from_other_scores_is_not_shown(run, tmp_path):
    folder = copy_of(run, tmp_path)
    manifest = folder / "selection" / "_manifest.json"
    content = json.loads((manifest).read_text())
    content["inputs"]["scores/all"] = "earlier"
    write_json(manifest, content)
    assert collect_page(open_run(folder)).header.selected is None


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(ArtifactError, match=r"no experiment\.yaml"):
        write_run_report(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert "Give the `run`" in capsys.readouterr().err


def test_the_summary_says_what_was_selected_and_where_it_is(run):
    lines = summary_lines(run)
    counts = load_manifest(run.folder / "selection").counts
    assert f"{counts['candidates']:,} of {counts['pool_candidates']:,} candidates" in lines[0]
    assert f"{counts['tokens'] / counts['pool_tokens']:.1%}" in lines[0]
    assert str(run.folder / "dataset") in lines[1]
    assert str(run.folder / "scores" / "all" / "scores.parquet") in lines[2]


def test_the_summary_compares_over_seeds(run):
    lines = summary_lines(run)
    mean = np.mean(
        [
            np.load(run.folder / "evaluations" / "report" / f"top-{seed}" / "words.npy").mean()
            for seed in range(2)
        ]
    )
    (top,) = [line for line in lines if line.startswith("words") and " top " in line]
    assert f"{mean:.4f}" in top
    assert " to " in top
    assert "paired t over the seeds" in lines[-1]


def test_the_summary_of_one_seed_says_that_its_interval_is_over_examples(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for arm in ("top", "random"):
        shutil.rmtree(folder / "evaluations" / "report" / f"{arm}-1")
    lines = summary_lines(open_run(folder))
    assert "paired bootstrap over the examples" in lines[-1]
    assert "compare.seeds" in lines[-1]


def test_the_summary_of_a_run_that_selected_nothing_says_so(tmp_path):
    lines = summary_lines(RunView(tmp_path, load_experiment(write_experiment(tmp_path))))
    assert lines[0] == "selected  nothing yet"


def test_the_verdict_of_a_check_is_a_section_with_reasons_and_figures(run, tmp_path):
    folder = copy_of(run, tmp_path)
    assert data_of(folder, "check") is None
    measured = Measurements("ekfac", rows=60, target_slopes={"words": Interval(-0.5, -0.9, -0.1)})
    check = Check(measured, Verdict(False, ["the sign is flipped"], ["one proxy"]))
    with writing(folder / "check" / "verdict", config={}, inputs={}) as draft:
        write_json(draft.path / CHECK, msgspec.to_builtins(check))
    assert data_of(folder, "check")["check"] == check
    page = write_run_report(folder).read_text(encoding="utf-8")
    section = page[page.index('<section id="check"') :].partition("</section>")[0]
    for shown in ("Do not trust", "the sign is flipped", "one proxy", "own score, words", "-0.50"):
        assert shown in section


def test_a_check_that_could_measure_nothing_says_why(run, tmp_path):
    folder = copy_of(run, tmp_path)
    check = Check(Measurements("ekfac", failure="loss is NaN"), Verdict(False, ["loss is NaN"], []))
    with writing(folder / "check" / "verdict", config={}, inputs={}) as draft:
        write_json(draft.path / CHECK, msgspec.to_builtins(check))
    assert data_of(folder, "check")["figures"] == {}
    assert "<li>loss is NaN</li>" in write_run_report(folder).read_text(encoding="utf-8")


def test_cosines_are_not_said_to_be_spreads(run):
    config = msgspec.structs.replace(run.experiment.scores, cosine=True)
    experiment = msgspec.structs.replace(run.experiment, scores=config)
    pages = [render_page(collect_page(one)) for one in (run, RunView(run.folder, experiment))]
    assert ["The unit is the spread" in page for page in pages] == [True, False]
    assert ["cosine of the angle" in page for page in pages] == [False, True]
    first = data_of(run, "examples")["examples"][0].score
    assert f"<b>{number(first, 4)}</b>" in pages[1]
