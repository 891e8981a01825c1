"""A run of every stage that takes seconds, and what it must end with: for the fault harnesses."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import ROOT

sys.path.append(str(ROOT))  # for the tests' made-up languages

from tests.toy import toy_experiment, write_world

from dsdm.artifacts import PER_RUN
from dsdm.experiment import Experiment
from dsdm.lock import LOCK
from dsdm.reporting.page import write_run_report
from dsdm.stages import LOCAL, ON_REQUEST, STAGES, Run, Workers, run_experiment
from dsdm.threads import FILE as THREADS

TRAIN = {
    "lr": 0.01,
    "batch_tokens": 64,
    "checkpoint_seconds": 0.0,  # as often as it can: every 20 steps
    "precision": "float32",
}
STAGE_NAMES = (*(stage for stage in STAGES if stage not in ("screening", ON_REQUEST)), "report")
"""The stages that `run_all` goes through: backward scores are not screened."""
OF_TIMES = {"cost"}
"""Parts of figures.json that are other ones each time."""


def make_world(folder: Path) -> None:
    """Pool and targets."""
    folder.mkdir(parents=True)
    write_world(folder, num_documents=60, num_files=2, num_targets=20)


def small_experiment(world: Path, **changes: Any) -> Experiment:
    """Two estimators that share a pass, two arms, a held-out task; the run is in WORLD/run."""
    settings: dict[str, Any] = {
        "proxies": {"count": 1, "fraction": 0.5, "epochs": 2.5, "train": TRAIN},
        "directions": {
            "estimators": ["trak", "gradient"],
            "trak": {"curvature_rows": 20, "projection": 3},
        },
        # Backward, so that both are scored in one pass, and a kill may fall between the two.
        "scores": {
            "mode": "backward",
            "precision": "float32",
            "calibration_rows": 20,
            "shrinkage": 0.5,
        },
        "selection": {"fraction": 0.3},
        "drop_overlap": True,
        "share": {"to": str(world / "shared"), "parts": ["scores", "dataset"]},
        "compare": {
            "arms": ["top", "dsir"],
            "epochs": 3,
            "train": TRAIN,
            "learning_rates": [0.01],
            "heldout": [{"name": "other", "file": str(world / "target.jsonl")}],
        },
    }
    return toy_experiment(world, **(settings | changes))


def run_all(
    experiment: Experiment,
    workers: Workers = LOCAL,
    begins: Callable[[str], None] = lambda stage: None,
) -> Run:
    """The run and its report; `begins` is called with each stage's name before it."""
    following = dict(itertools.pairwise(STAGE_NAMES))

    def announce(stage: str, made: int, total: int) -> None:
        if stage in following:
            begins(following[stage])

    begins(STAGE_NAMES[0])
    run = run_experiment(experiment, workers=workers, announce=announce)
    write_run_report(run.folder)
    return run


def forget_run(world: Path) -> None:
    """Deletes what `run_all` made."""
    for made in ("run", "shared"):
        shutil.rmtree(world / made, ignore_errors=True)


def made_in(world: Path) -> dict[str, bytes]:
    """What `run_all` must always make the same: the run, and what it shares."""
    shared = contents(world / "shared")
    return contents(world / "run") | {f"shared to {name}": found for name, found in shared.items()}


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run, hidden ones too, but for what may differ between two runs.

    The page itself is left out: figures.json holds the same as data, with the costs apart.
    """
    found = {}
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if not file.is_file() or file.name in (*PER_RUN, LOCK, THREADS, "report.html"):
            continue
        found[name] = file.read_bytes()
        if name == "figures.json":
            data = {k: v for k, v in json.loads(found[name]).items() if k not in OF_TIMES}
            found[name] = json.dumps(data).encode()
    return found


def differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of the files that only one has, or that hold other bytes."""
    names = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]
