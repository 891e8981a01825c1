"""A pool may have files of which nothing is packed, wherever they are in it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dsdm.experiment import load_experiment
from dsdm.stages import run_experiment
from tests.tiny_runs import write_data, write_experiment


@pytest.mark.parametrize("names", [["0first", "last"], ["aa-middle"]])
def test_they_change_neither_scores_nor_selection(tmp_path: Path, names: list[str]) -> None:
    found = []
    for folder, empty in ((tmp_path / "without", []), (tmp_path / "with", names)):
        folder.mkdir()
        write_data(folder)
        for name in empty:
            (folder / "pool" / f"{name}.jsonl").touch()
        run = run_experiment(load_experiment(write_experiment(folder)), until="dataset")
        table = pq.read_table(run.folder / "scores" / "all" / "scores.parquet")
        chosen = sorted((run.folder / "dataset").glob("*.parquet"))
        texts = [text for path in chosen for text in pq.read_table(path)["text"].to_pylist()]
        found.append((table.drop_columns(["file"]), texts))
    assert found[0][0].equals(found[1][0])
    assert found[0][1] == found[1][1] != []
