"""The scale experiment at toy size: its steps, its counts, and that it goes on where it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scale_10m

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_generated_pool_goes_through_every_step(tmp_path: Path) -> None:
    flags = ["--rows", "3000", "--small", "1500", "--workers", "1", "--no-figures"]
    command = [sys.executable, str(ROOT / "experiments" / "scale_10m.py"), *flags]
    command += ["--folder", str(tmp_path)]
    settings = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[0] for line in lines] == list(scale_10m.STEPS)
    measured = json.loads((tmp_path / "3000" / "measured.json").read_text())
    assert all(found["seconds"] > 0 for found in measured.values())
    assert (tmp_path / "3000" / "run" / "dataset" / "_manifest.json").exists()


def test_the_pool_has_the_copies_that_are_counted(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    scale_10m.make_pool(tmp_path, 5000)
    texts = pq.read_table(tmp_path / "pool")["text"].to_pylist()
    assert len(texts) == 5000
    assert len(texts) - len(set(texts)) == scale_10m.num_copies(5000)


def test_deduplication_counts_them(tmp_path: Path) -> None:
    scale_10m.make_pool(tmp_path, 3000)
    assert scale_10m._deduplicate(tmp_path, 3000) > 0
    assert scale_10m._read(tmp_path, 3000) > 0
    with pytest.raises(AssertionError):
        scale_10m._read(tmp_path, 2999)
