"""A run that is killed and started again ends with the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsdm.artifacts import COST
from tests.toy import write_world

ROOT = Path(__file__).parents[1]


def make_runs(world: Path, num_points: int) -> tuple[Path, list[Path]]:
    """The undisturbed run, and those that were killed at so many points."""
    write_world(world, num_documents=60, num_files=2, num_targets=20)
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_run", str(world), str(num_points)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed = sorted([*world.glob("killed-*"), world / "again-and-again"])
    assert len(killed) == num_points + 1
    return world / "undisturbed", killed


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run, hidden ones too, but for what they cost."""
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name != COST
    }


def assert_same_bytes(undisturbed: Path, killed: list[Path]) -> None:
    expected = contents(undisturbed)
    assert sum(name.endswith("_manifest.json") for name in expected) >= 14
    assert not [name for name in expected if any(p.startswith(".") for p in Path(name).parts)]
    for run in killed:
        found = contents(run)
        assert sorted(found) == sorted(expected), run.name
        assert [name for name in expected if found[name] != expected[name]] == [], run.name


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert_same_bytes(*make_runs(tmp_path, num_points=4))


@pytest.mark.slow
def test_a_run_killed_at_many_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert_same_bytes(*make_runs(tmp_path, num_points=80))
