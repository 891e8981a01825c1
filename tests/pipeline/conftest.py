"""A finished run that the tests of its report share."""

import json
import shutil
from pathlib import Path

import pytest

from dsdm.experiment import Experiment, load_experiment
from dsdm.stages import Run, run_experiment, run_of
from tests.tiny_runs import write_data, write_experiment

HOSTILE = "<script>alert(1)</script> {{ 7*7 }} \x07 "


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A finished run with two methods, two proxies and a comparison over two seeds."""
    folder = tmp_path_factory.mktemp("reported")
    write_data(folder)
    add_awkward_records(folder / "pool" / "c.jsonl")
    path = write_experiment(
        folder,
        pool={"max_rejected_share": 0.5},
        proxies={"count": 2, "epochs": 1.0},
        directions={"estimators": ["ekfac", "gradient"]},
        scores={"mode": "forward", "min_correlation": -1.0},
        compare={"arms": ["top", "random"], "epochs": 1, "seeds": 2},
    )
    experiment = load_experiment(path, [])
    run_experiment(experiment)
    return experiment


def add_awkward_records(path: Path) -> None:
    """Hostile documents of a hostile source, a duplicate of one, and a record without text."""
    texts = [*(HOSTILE + str(i) * 20 for i in range(10)), HOSTILE + "0" * 20, None]
    records = [
        {"id": f"{HOSTILE}{i}", "source": HOSTILE, "text": text} for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(reported: Experiment) -> Run:
    return run_of(reported)


def copy_of(run: Run, tmp_path: Path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "copy")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Nothing of it is made yet."""
    write_data(tmp_path)
    return load_experiment(write_experiment(tmp_path))
