"""Some of the storage faults that experiments/storage_faults.py injects; each is detected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import Boundary
from storage_faults import Fault, finished_file_faults, write_faults

ROOT = Path(__file__).parents[1]


def inject(*flags: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "experiments" / "storage_faults.py"
    return subprocess.run(
        [sys.executable, str(script), "--no-figures", *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_faults_of_the_storage_are_detected() -> None:
    done = inject("--every", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 undetected")


@pytest.mark.slow
def test_many_faults_of_the_storage_are_detected() -> None:
    done = inject("--every", "7")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_full_and_a_failing_disk_come_once_for_each_kind_of_write() -> None:
    passed = [Boundary("before step", "a"), Boundary("before save", "a"), Boundary("x", "a")]
    faults = list(write_faults([*passed, *passed]))
    assert [f.name for f in faults] == [
        f"{code} {name} in a" for name in ("before save", "x") for code in ("ENOSPC", "EIO")
    ]
    fails = faults[0].raises
    assert fails is not None
    fails(1, passed[0])
    with pytest.raises(OSError, match="No space left"):
        fails(2, passed[1])


def test_every_kind_of_finished_file_is_flipped_cut_and_removed(tmp_path: Path) -> None:
    (tmp_path / "run" / "scores").mkdir(parents=True)
    for name in ("00000.npy", "00001.npy"):
        (tmp_path / "run" / "scores" / name).write_bytes(b"content")
    faults: list[Fault] = list(finished_file_faults(tmp_path / "run"))
    file = tmp_path / "run" / "scores" / "00000.npy"
    assert [f.name.split()[0] for f in faults] == ["flipped", "cut", "unreadable", "absent"]
    faults[0].damage(tmp_path)
    flipped = sum((a ^ b).bit_count() for a, b in zip(file.read_bytes(), b"content", strict=True))
    assert flipped == 1
    repair = faults[2].damage(tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        file.read_bytes()
    repair()
    faults[3].damage(tmp_path)
    assert not file.exists()
