import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsdm.artifacts import PER_RUN, Draft, load_cost
from dsdm.errors import ArtifactError, DsdmError
from dsdm.execute import executor, make_stage
from dsdm.experiment import Experiment, load_experiment
from dsdm.graph import Artifact
from dsdm.stages import Run, Workers, run_experiment, run_of
from tests.tiny_runs import write_data, write_experiment

COMPARE = {"arms": ["top", "random"], "epochs": 1, "parts": ["tune"]}


def finished_bytes(folder: Path) -> dict[str, bytes]:
    """Every file but the costs and what describes the experiment, by its path in the run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (*PER_RUN, "experiment.yaml", "pool.json")
        # names the run folder
        and path.parts[-2:] != ("dataset", "_manifest.json")
    }


def test_two_processes_make_the_same_bytes_as_one(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = write_experiment(tmp_path, compare=COMPARE)
    made: list[tuple[str, int, int]] = []
    for name, count in (("one", 1), ("two", 2)):
        experiment = load_experiment(path, [("run", str(tmp_path / name))])
        run_experiment(experiment, workers=Workers(count), announce=lambda *done: made.append(done))
    assert made[: len(made) // 2] == made[len(made) // 2 :]
    assert finished_bytes(tmp_path / "one") == finished_bytes(tmp_path / "two")


def test_estimators_share_the_backward_pass_and_each_has_the_bytes_of_its_own(
    tmp_path: Path,
) -> None:
    write_data(tmp_path)
    scores = {"mode": "backward"}
    directions = {"estimators": ["ekfac", "gradient"]}
    path = write_experiment(tmp_path, scores=scores, directions=directions)
    run = run_experiment(load_experiment(path), until="scores")
    folder = run.folder / "scores"
    together = finished_bytes(folder)
    costs = {name: load_cost(folder / name / "00000") for name in ("ekfac", "gradient")}
    assert [cost.made_with for cost in costs.values()] == [2, 2]
    assert costs["ekfac"].flops == costs["gradient"].flops > 0

    # As after a kill between the two, and with a second process.
    shutil.rmtree(folder / "gradient")
    shutil.rmtree(folder / "ekfac" / "00001")
    run_experiment(load_experiment(path), until="scores", workers=Workers(2))
    assert finished_bytes(folder) == together
    assert load_cost(folder / "gradient" / "00000").made_with == 1
    assert load_cost(folder / "gradient" / "00001").made_with == 2


def fail(run: Run, draft: Draft) -> None:
    raise ArtifactError("the disk is on fire")


def die(run: Run, draft: Draft) -> None:
    os._exit(9)


def one_made_by(run: Run, maker: str, name: str = "0") -> Artifact:
    path = run.folder / "proxies" / name
    return Artifact("proxies", path, {}, {}, f"tests.pipeline.test_workers:{maker}", run)


def test_an_error_in_a_worker_is_the_commands_error(experiment: Experiment) -> None:
    with (
        executor(Workers(2)) as submit,
        pytest.raises(DsdmError, match="the disk is on fire"),
    ):
        make_stage(submit, [one_made_by(run_of(experiment), "fail")])


def test_a_worker_that_dies_is_told_of(experiment: Experiment) -> None:
    with (
        executor(Workers(2)) as submit,
        pytest.raises(ArtifactError, match="A worker process died"),
    ):
        make_stage(submit, [one_made_by(run_of(experiment), "die")])


PARENT = """
import os, subprocess, sys, time
worker = "import sys; from dsdm.execute import _end_with; _end_with(int(sys.argv[1]))"
print(subprocess.Popen([sys.executable, "-c", worker, str(os.getpid())]).pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_when_its_driver_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(process: int) -> bool:
    """False for one that has ended and that nobody asked about, too."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
