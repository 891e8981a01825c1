"""`dsdm score`: files that came after a run, scored by what it has learned."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.cli import main
from dsdm.data import duplicates
from tests.data.pools import texts, write_jsonl
from tests.tiny_runs import Dsdm, write_data, write_experiment


@pytest.fixture(scope="module", params=[None, 0.5], ids=["plain", "shrunk"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder)
    scores = {"calibration_rows": 16, "precision": "float32", "shrinkage": request.param}
    assert main(["run", str(write_experiment(folder, scores=scores))]) == 0
    return folder / "run"


def later_file(folder: Path) -> Path:
    """40 new documents, and 3 that the run's pool has."""
    new = [{"id": f"c{i}", "text": text} for i, text in enumerate(texts(40, 2))]
    old = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts(3, 0))]
    return write_jsonl(folder / "c.jsonl", [*old, *new])


def test_later_files_are_selected_from_beside_the_pool(
    run: Path, tmp_path: Path, dsdm: Dsdm
) -> None:
    file, out, both = later_file(tmp_path), tmp_path / "later", tmp_path / "both"
    assert dsdm("score", run, file, "--out", out)[0] == 0
    later = pq.read_table(out / "scores" / "all" / "scores.parquet")
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    assert later.schema.equals(table.schema, check_metadata=True)
    assert later["id"].to_pylist() == [f"c{i}" for i in range(40)]
    code, printed, _ = dsdm("select", run, out, "--candidates", 30, "--out", both)
    assert code == 0
    assert "30 of 120 candidates" in printed
    every = np.concatenate([table["ekfac"].to_numpy(), later["ekfac"].to_numpy()])
    best = set(np.argsort(-every, kind="stable")[:30].tolist())
    chosen = pq.read_table(both / "selection" / "selection.parquet")
    assert set(chosen["candidate"].to_pylist()) == best
    ids = [*table["id"].to_pylist(), *later["id"].to_pylist()]
    exported = pq.read_table(next((both / "dataset").glob("*.parquet")))
    assert set(exported["id"].to_pylist()) == {ids[i] for i in best}


def test_a_file_of_the_pool_gets_the_scores_it_has(
    run: Path, tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = duplicates.find_duplicates

    def without_the_runs(*arguments: object, against: object, **options: object) -> object:
        return partial(find, against=())(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(duplicates, "find_duplicates", without_the_runs)
    file = run.parent / "pool" / "b.jsonl"
    assert dsdm("score", run, file, "--out", tmp_path / "later")[0] == 0
    later = pq.read_table(tmp_path / "later" / "scores" / "all" / "scores.parquet")
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")[40:]
    assert later["id"].equals(table["id"])
    np.testing.assert_allclose(later["ekfac"].to_numpy(), table["ekfac"].to_numpy(), rtol=1e-5)


def test_the_same_command_again_does_nothing(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    arguments = ("score", run, later_file(tmp_path), "--out", tmp_path / "later")
    _, first, _ = dsdm(*arguments)
    code, second, err = dsdm(*arguments)
    assert (code, first) == (0, second)
    assert "scores       0 made" in err


def test_scores_of_another_run_are_refused(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    other = write_experiment(tmp_path, seed=5)
    assert dsdm("run", other, "--until", "scores")[0] == 0
    out = tmp_path / "later"
    assert dsdm("score", tmp_path / "run", later_file(tmp_path), "--out", out)[0] == 0
    code, _, err = dsdm("select", run, out, "--candidates", 3, "--out", tmp_path / "both")
    assert code == 2
    assert "Score its files again" in err


def test_what_can_not_be_scored_is_named(run: Path, tmp_path: Path, dsdm: Dsdm) -> None:
    file = later_file(tmp_path)
    code, _, err = dsdm("score", tmp_path, file, "--out", tmp_path / "later")
    assert (code, "is not the folder of a run" in err) == (2, True)
    code, _, err = dsdm("score", run, file, "--out", run)
    assert (code, "is the run's own folder" in err) == (2, True)
    code, _, err = dsdm("select", run, tmp_path / "none", "--out", tmp_path / "both")
    assert (code, "holds no finished scores" in err) == (2, True)


def test_a_run_whose_pool_grew_names_the_ways_on(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "examples")[0] == 0
    later_file(tiny.parent / "pool")
    code, _, err = dsdm("run", tiny)
    assert code == 2
    assert "c.jsonl" in err
    assert "dsdm score" in err
