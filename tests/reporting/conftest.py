"""A finished run that the tests of its report share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import dsdm.reporting.sections  # noqa: F401 - registers them
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.section import SECTIONS
from dsdm.reporting.view import RunView, open_run
from dsdm.stages import run_experiment
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
def run(reported: Experiment) -> RunView:
    return RunView(reported.folder, reported)


def copy_of(run: RunView, tmp_path: Path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "copy")


def data_of(run: RunView | Path, name: str) -> Any:
    """What one section collects."""
    return SECTIONS[name].collect(open_run(run) if isinstance(run, Path) else run)
