"""A run that is killed and started again ends with the same bytes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_run import STAGE_NAMES, contents, differing

from dsdm.artifacts import COST

ROOT = Path(__file__).parents[1]


def soak(folder: Path, *flags: str) -> list[dict[str, Any]]:
    """What the runs of the fault harness came to."""
    script = ROOT / "experiments" / "faults.py"
    done = subprocess.run(
        [sys.executable, str(script), "--folder", str(folder), "--no-figures", *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / "done.jsonl").read_text().splitlines()]


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(tmp_path: Path) -> None:
    results = soak(tmp_path / "soak", "--runs", "4")
    assert [result["problems"] for result in results] == [[]] * 4
    assert all(result["kills"] for result in results)
    # The last run, whose folder is still there, is a whole one.
    names = list(contents(tmp_path / "soak" / "world" / "run"))
    assert sum(name.endswith("_manifest.json") for name in names) >= 20
    assert {Path(name).parts[0] for name in names} >= set(STAGE_NAMES) - {"report"}
    assert not [name for name in names if any(p.startswith(".") for p in Path(name).parts)]


def test_a_soak_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "soak"
    folder.mkdir()
    line = json.dumps({"run": 0, "kills": [["boundary", "scores"]], "problems": ["x"]})
    (folder / "done.jsonl").write_text(line + "\n")
    assert soak(folder, "--runs", "1") == [json.loads(line)]


@pytest.mark.slow
def test_kills_fall_into_every_stage(tmp_path: Path) -> None:
    results = soak(tmp_path / "soak", "--runs", str(2 * len(STAGE_NAMES)))
    assert [result["problems"] for result in results] == [[]] * len(results)
    first = Counter(result["kills"][0][1] for result in results if result["kills"])
    assert set(first) == set(STAGE_NAMES)


@pytest.mark.slow
def test_on_ray_a_killed_driver_or_worker_changes_no_byte(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    results = soak(tmp_path / "soak", "--runs", "2", "--executor", "ray")
    assert [result["problems"] for result in results] == [[], []]


def test_a_changed_missing_or_left_over_file_is_a_difference(tmp_path: Path) -> None:
    for name, content in (("same", b"1"), ("other", b"1"), (COST, b"1"), ("gone", b"1")):
        (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    (tmp_path / "other").write_bytes(b"2")
    (tmp_path / COST).write_bytes(b"2")
    (tmp_path / "gone").unlink()
    (tmp_path / ".left.draft").write_bytes(b"")
    assert differing(before, contents(tmp_path)) == [".left.draft", "gone", "other"]
