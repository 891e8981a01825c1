"""The report and the summary of real runs, finished and not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsdm.artifacts import load_manifest, write_json
from dsdm.cli import main
from dsdm.errors import ArtifactError
from dsdm.experiment import load_experiment
from dsdm.pipeline.report import collect_report, stage_costs, write_run_report
from dsdm.pipeline.summary import summary_lines
from dsdm.stages import run_of
from tests.pipeline.conftest import HOSTILE, copy_of
from tests.tiny_runs import write_experiment


def test_the_report_counts_what_the_manifests_count(run):
    report = collect_report(run.folder)
    counts = load_manifest(run.folder / "selection").counts
    assert report.selected.candidates == counts["candidates"]
    assert report.selected.pool_tokens == counts["pool_tokens"]
    assert report.counts["documents"] == 90
    assert report.counts["duplicates"] == 1
    assert sum(report.rejections.values()) == report.counts["rejected"] == 1
    assert [overlap.target for overlap in report.overlaps] == ["words"]


def test_shares_of_sources_sum_to_one(run):
    sources = collect_report(run.folder).sources
    assert sum(source.selected_share for source in sources) == pytest.approx(1)
    assert sum(source.pool_share for source in sources) == pytest.approx(1)
    assert sum(source.pool_candidates for source in sources) == 90
    assert HOSTILE in [source.name for source in sources]


def test_agreement_is_reported_for_each_method(run):
    report = collect_report(run.folder)
    assert {(line.method, line.between) for line in report.agreements} == {
        ("ekfac", "proxies"),
        ("gradient", "proxies"),
    }
    # Two of each: over the candidates and over the calibration rows.
    assert len(report.agreements) == 4
    assert report.matrices[0].labels[:2] == ["ekfac", "gradient"]


def test_every_direction_has_its_calibration(run):
    lines = collect_report(run.folder).calibrations
    assert [(line.method, line.proxy) for line in lines] == [
        ("ekfac", "0"),
        ("ekfac", "1"),
        ("gradient", "0"),
        ("gradient", "1"),
    ]


def test_costs_are_sums_over_artifacts(run):
    costs = {cost.stage: cost for cost in stage_costs(run.folder, run.experiment)}
    files = [run.folder / "proxies" / name / "_cost.json" for name in "01"]
    expected = [json.loads((file).read_text()) for file in files]
    assert costs["proxies"].artifacts == 2
    assert costs["proxies"].flops == sum(cost["flops"] for cost in expected)
    assert "times the FLOPs of training one target model" in collect_report(run.folder).cost_note


def test_what_one_pass_made_together_counts_once(run, tmp_path):
    folder = copy_of(run, tmp_path)
    before = {cost.stage: cost for cost in stage_costs(folder, run.experiment)}
    for path in (folder / "scores").rglob("_cost.json"):
        write_json(path, json.loads((path).read_text()) | {"made_with": 2})
    after = {cost.stage: cost for cost in stage_costs(folder, run.experiment)}
    assert after["scores"].flops == before["scores"].flops / 2 > 0
    assert after["proxies"] == before["proxies"]


def test_costs_are_shares_of_one_target_training(run):
    costs = {cost.stage: cost for cost in stage_costs(run.folder, run.experiment)}
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
    report = collect_report(folder)
    assert data["selected"]["candidates"] == report.selected.candidates
    assert [cost["stage"] for cost in data["costs"]] == [cost.stage for cost in report.costs]
    assert len(data["examples"]["examples"]) == len(report.examples.examples)
    assert data["comparisons"][0]["targets"][0]["name"] == "words"


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
    assert collect_report(folder).selected is None


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
    lines = summary_lines(
        run_of(load_experiment(folder / "experiment.yaml", [("run", str(folder))]))
    )
    assert "paired bootstrap over the examples" in lines[-1]
    assert "compare.seeds" in lines[-1]


def test_the_summary_of_a_run_that_selected_nothing_says_so(tmp_path):
    lines = summary_lines(run_of(load_experiment(write_experiment(tmp_path), [])))
    assert lines[0] == "selected  nothing yet"
