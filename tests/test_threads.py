import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsdm import threads
from dsdm.errors import ArtifactError
from dsdm.threads import (
    available_cpus,
    busy_cpus,
    choose_threads,
    default_threads,
    thread_environment,
)


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_quota_limits_the_cpus(
    four_cpus: None, tmp_path: Path, quota: str, expected: int
) -> None:
    own = write(tmp_path / "own", "0::/\n")
    write(tmp_path / "cgroup" / "cpu.max", f"{quota}\n")
    assert available_cpus(tmp_path / "cgroup", own) == expected


def test_a_quota_of_a_group_above_limits_too(four_cpus: None, tmp_path: Path) -> None:
    own = write(tmp_path / "own", "0::/jobs/mine\n")
    write(tmp_path / "cgroup" / "jobs" / "cpu.max", "200000 100000\n")
    write(tmp_path / "cgroup" / "jobs" / "mine" / "cpu.max", "max 100000\n")
    assert available_cpus(tmp_path / "cgroup", own) == 2


@pytest.mark.parametrize(("quota", "expected"), [(-1, 4), (300_000, 3)])
def test_a_quota_of_version_1_limits_the_cpus(
    four_cpus: None, tmp_path: Path, quota: int, expected: int
) -> None:
    own = write(tmp_path / "own", "4:memory:/x\n1:cpu,cpuacct:/docker/not-visible-from-here\n")
    write(tmp_path / "cgroup" / "cpu,cpuacct" / "cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "cgroup" / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert available_cpus(tmp_path / "cgroup", own) == expected


def test_without_control_groups_the_affinity_counts(four_cpus: None, tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none", tmp_path / "none") == 4


@pytest.mark.parametrize(
    ("load", "workers", "expected"),
    [(None, 1, 4), (0.2, 1, 4), (2.0, 1, 2), (9.0, 1, 1), (0.0, 2, 2), (0.0, 8, 1)],
)
def test_the_default_is_what_others_leave_free(
    four_cpus: None, monkeypatch: pytest.MonkeyPatch, load: float, workers: int, expected: int
) -> None:
    monkeypatch.setattr(threads, "_cpu_quota", lambda cgroups, own: None)
    assert default_threads(load, workers) == expected


def test_busy_cpus_are_those_of_the_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    stat = write(tmp_path / "stat", "cpu 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")

    def later(seconds: float) -> None:
        # cpu0 is busy, cpu1 works half of the time at low priority, cpu2 belongs to others.
        stat.write_text(
            "cpu0 90 0 10 0 0 0 0 0 0 0\ncpu1 0 50 0 50 0 0 0 0 0 0\ncpu2 100 0 0 0 0 0 0 0 0 0\n"
        )

    monkeypatch.setattr(threads.time, "sleep", later)
    assert busy_cpus(stat=stat) == 1.0
    assert busy_cpus(stat=tmp_path / "none") is None


def test_a_run_keeps_its_number_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "busy_cpus", lambda: 0.0)
    monkeypatch.setattr(threads, "available_cpus", lambda: 4)
    assert choose_threads(tmp_path / "run") == 4
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    assert choose_threads(tmp_path / "run") == 4
    assert choose_threads(tmp_path / "run", initial=1) == 4
    assert choose_threads(tmp_path / "run", wanted=3) == 3
    assert choose_threads(tmp_path / "run") == 3
    assert choose_threads(tmp_path / "other", initial=1) == 1


def test_a_damaged_number_of_threads_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "threads.json", "{}")
    with pytest.raises(ArtifactError, match=r"threads.json: .* Give it again with --threads"):
        choose_threads(tmp_path)


def test_torch_takes_the_number_from_the_environment() -> None:
    program = "import torch; print(torch.get_num_threads())"
    environment = os.environ | thread_environment(1)
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert found.stdout.strip() == b"1"
