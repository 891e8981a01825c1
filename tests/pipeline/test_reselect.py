"""`dsdm select`: another budget from finished scores."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.cli import main
from tests.tiny_runs import Dsdm, write_data, write_experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder)
    assert main(["run", str(write_experiment(folder))]) == 0
    return folder / "run"


def chosen(out: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(out / "selection" / "selection.parquet")
    return {name: np.array(table[name]) for name in ("candidate", "source", "num_tokens")}


def test_another_budget_is_selected_and_exported(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    code, out, _ = dsdm("select", run / "scores", "--tokens", "6e2", "--out", tmp_path / "out")
    found = chosen(tmp_path / "out")
    assert code == 0
    assert 500 < found["num_tokens"].sum() <= 600
    assert f"{len(found['candidate'])} of 80 candidates" in out
    (shard,) = (tmp_path / "out" / "dataset").glob("*.parquet")
    assert pq.read_metadata(shard).num_rows == len(found["candidate"])


def test_the_budget_of_the_run_selects_what_the_run_did(
    run: Path, tmp_path: Path, dsdm: Dsdm
) -> None:
    assert dsdm("select", run, "--out", tmp_path / "out")[0] == 0
    same = pq.read_table(tmp_path / "out" / "selection" / "selection.parquet")
    assert same.equals(pq.read_table(run / "selection" / "selection.parquet"))


def test_a_number_of_candidates_is_a_budget(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    assert dsdm("select", run / "scores", "--candidates", "7", "--out", tmp_path / "out")[0] == 0
    assert len(chosen(tmp_path / "out")["candidate"]) == 7


@pytest.mark.parametrize("setting", ["source_cap", "selection.source_cap", "source_cap.a"])
def test_rules_of_the_selection_can_be_replaced(
    run: Path, tmp_path: Path, dsdm: Dsdm, setting: str
) -> None:
    budget = ("--candidates", "10", f"--{setting}", "0.5")
    assert dsdm("select", run / "scores", *budget, "--out", tmp_path / "out")[0] == 0
    assert (chosen(tmp_path / "out")["source"] == "a").sum() <= 5


def test_a_finished_selection_is_kept_and_never_replaced(
    run: Path, tmp_path: Path, dsdm: Dsdm
) -> None:
    command = ("select", run / "scores", "--out", tmp_path / "out", "--candidates")
    first, again, other = (dsdm(*command, number) for number in (5, 5, 6))
    assert first == again
    assert other[0] == 2
    assert "selection.candidates: 5 -> 6. Give another --out" in other[2]
    assert len(chosen(tmp_path / "out")["candidate"]) == 5


def test_nothing_of_the_run_changes(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert dsdm("select", run / "scores", "--tokens", "300", "--out", tmp_path / "out")[0] == 0
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN/scores/all", "--tokens", "9"], "is not the folder of a run: there is no"),
        (["RUN/scores", "--tokens", "9e9"], "5,384"),
        (["RUN/scores", "--tokens", "9", "--source_cup", "1"], "unknown field `source_cup`"),
        (["RUN/scores", "--tokens", "9", "--random_share", "much"], "Expected `float`, got `str`"),
        (["RUN/scores", "--fraction", "1.5"], "`fraction` is 1.5"),
    ],
)
def test_what_cannot_be_selected_is_said(
    run: Path, tmp_path: Path, dsdm: Dsdm, arguments: list[str], message: str
) -> None:
    words = [word.replace("RUN", str(run)) for word in arguments]
    code, _, err = dsdm("select", *words, "--out", tmp_path / "out")
    assert code == 2
    assert message in err


def test_a_run_without_finished_scores_is_named(tiny: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "tokenizer")[0] == 0
    scores = tiny.parent / "run" / "scores"
    code, _, err = dsdm("select", scores, "--tokens", "9", "--out", tmp_path / "out")
    assert code == 2
    assert "scores are missing. Finish them with `dsdm run" in err


def test_a_run_that_was_moved_is_named(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    shutil.copytree(run, tmp_path / "moved")
    scores = tmp_path / "moved" / "scores"
    code, _, err = dsdm("select", scores, "--tokens", "300", "--out", tmp_path / "out")
    assert code == 2
    assert f"says that the run's folder is {run}" in err
