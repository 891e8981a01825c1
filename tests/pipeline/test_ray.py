"""Artifacts made on a Ray cluster of two nodes, both on this machine."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsdm.artifacts import Draft
from dsdm.errors import ArtifactError
from dsdm.execute import executor, make_stage
from dsdm.experiment import Experiment, load_experiment
from dsdm.stages import Run, Workers, run_experiment, run_of
from tests.pipeline.test_workers import COMPARE, finished_bytes, one_made_by
from tests.tiny_runs import Dsdm, write_data, write_experiment

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with one core each, whose workers find the tests' makers."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster()
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
        yield cluster.address
        cluster.shutdown()


def write(run: Run, draft: Draft) -> None:
    (draft.path / "done").write_text("whole")


def die_once(run: Run, draft: Draft) -> None:
    (draft.path / "half").write_text("ha")
    marker = run.folder / "has-died"
    if not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    (draft.path / "done").write_text("whole")


def test_two_nodes_make_the_same_bytes_as_this_process(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)  # a relative folder is from where the driver runs
    scores = {"mode": "backward"}
    estimators = {"estimators": ["ekfac", "gradient"]}
    path = write_experiment(tmp_path, compare=COMPARE, scores=scores, directions=estimators)
    made: list[tuple[str, int, int]] = []
    for name, who in (("here", Workers(threads=1)), ("ray", Workers(threads=1, ray=address))):
        experiment = load_experiment(path, [("run", name)])
        run_experiment(experiment, workers=who, announce=lambda *done: made.append(done))
    assert made[: len(made) // 2] == made[len(made) // 2 :]
    assert finished_bytes(tmp_path / "here") == finished_bytes(tmp_path / "ray")


def test_what_a_dead_worker_was_at_is_given_to_another(
    experiment: Experiment, address: str
) -> None:
    run = run_of(experiment)
    run.folder.mkdir(parents=True)
    made_by = "tests.pipeline.test_ray"
    artifacts = [
        replace(one_made_by(run, "fail", name), make=f"{made_by}:{maker}")
        for name, maker in (("0", "write"), ("1", "die_once"))
    ]
    with executor(Workers(threads=1, ray=address)) as submit:
        assert make_stage(submit, artifacts) == 2
        assert make_stage(submit, artifacts) == 0
    for name in "01":
        folder = run.folder / "proxies" / name
        assert (folder / "done").read_text() == "whole"
    assert (run.folder / "has-died").exists()


def test_an_error_of_a_task_is_the_commands_error(experiment: Experiment, address: str) -> None:
    with (
        executor(Workers(threads=1, ray=address)) as submit,
        pytest.raises(ArtifactError, match=r"^the disk is on fire$"),
    ):
        make_stage(submit, [one_made_by(run_of(experiment), "fail")])


def test_no_cluster_at_the_address_is_an_error(tiny: Path, dsdm: Dsdm) -> None:
    code, _, err = dsdm("run", tiny, "--ray", "127.0.0.1:1")
    assert code == 2
    assert "no Ray cluster can be reached there" in err


def test_without_ray_the_error_says_what_to_install(
    tiny: Path,
    dsdm: Dsdm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = dsdm("run", tiny, "--ray", "local")
    assert code == 2
    assert "pip install 'dsdm[ray]'" in err
