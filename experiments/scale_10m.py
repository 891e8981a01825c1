"""A generated pool is read, freed of exact copies, packed, scored, selected from and exported.

    python experiments/scale_10m.py [--rows 10000000] [--workers 2] [--folder runs/scale]

Documents have one row each, and every hundredth is a copy of an earlier one, most of them in other
files. Each step is a process of its own that reports its seconds and the peak of its anonymous
memory; `peak_memory_over_100k` is the highest peak of the steps over that of the same with 100,000
documents. Workers share out the scoring; their memory is not counted, as each does one file at a
time. What is finished is kept: the same command goes on from there.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import PeakMemory
from record import ROOT, figure, write_figures

SMALL = 100_000
FILE_ROWS = 250_000
EVERY = 100
"""One in so many documents is a copy."""
MODEL = {"model_type": "gpt2", "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 1}
SCORES = {
    "mode": "forward",
    "calibration_rows": 128,
    "min_correlation": -1.0,
    "screening": None,  # what is measured is the scoring of every row
}
STEPS = {
    "reading": None,
    "deduplication": None,
    "packing": "examples",
    "overlap": "overlap",
    "proxy": "directions",
    "scoring": "scores",
    "selecting": "selection",
    "exporting": "dataset",
}
"""What is measured, and the stage of the run up to which it goes."""

Measured = dict[str, dict[str, float]]
"""Seconds and bytes of each step."""


def main(arguments: list[str] | None = None) -> None:
    """Measures and writes `scale.10m.*`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=SMALL)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "scale")
    parser.add_argument("--no-figures", action="store_true", help="leave experiments/results alone")
    options = parser.parse_args(arguments)
    small, large = (
        measure(options.folder / str(rows), rows, options.workers)
        for rows in (options.small, options.rows)
    )
    for step, found in large.items():
        rate = options.rows / found["seconds"]
        print(f"{step:14} {rate:10,.0f} rows/s  {found['bytes'] / 2**20:7,.0f} MiB")
    if not options.no_figures:
        write_figures("scale", _figures(small, large, options))


def _figures(small: Measured, large: Measured, options: argparse.Namespace) -> list[dict[str, Any]]:
    unit = f"rows a second, {options.rows:,} rows, {options.workers} workers"
    rows = [
        figure(f"scale.10m.{step}.rows_per_second", options.rows / found["seconds"], unit)
        for step, found in large.items()
        if step != "proxy"
    ]
    peaks = [max(found["bytes"] for found in each.values()) for each in (small, large)]
    unit = f"ratio of peaks, {peaks[0] / 2**20:.0f} MiB at {options.small:,} rows"
    return [*rows, figure("scale.10m.peak_memory_over_100k", peaks[1] / peaks[0], unit)]


def measure(folder: Path, rows: int, workers: int) -> Measured:
    """Seconds and peak bytes of each step that is not measured yet, and of those that are."""
    _in_a_process(partial(make_pool, folder, rows))
    measured = folder / "measured.json"
    done: Measured = json.loads(measured.read_text()) if measured.exists() else {}
    for step in STEPS:
        if step not in done:
            _in_a_process(partial(_do, folder, rows, step, workers))
            done[step] = json.loads((folder / "step.json").read_text())
            measured.write_text(json.dumps(done))
    return done


def _in_a_process(do: Callable[[], None]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=do)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{do}: exit code {process.exitcode}")


def make_pool(folder: Path, rows: int, file_rows: int = FILE_ROWS) -> None:
    """Parquet files of `file_rows` documents and a target, where they are not there yet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (folder / "pool").exists():
        return
    draft = folder / "pool.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    words = np.array([f"w{n:02d}" for n in range(64)])
    for number, start in enumerate(range(0, rows, file_rows)):
        numbers = np.arange(start, min(start + file_rows, rows))
        # A copy is of the document half as far from the start.
        is_copy = (numbers % EVERY == EVERY - 1) & (numbers > EVERY)
        numbers = np.where(is_copy, numbers // 2 // EVERY * EVERY, numbers)
        texts = [f"{n} {words[n % 64]} {words[n // 64 % 64]} {words[n * 7 % 64]}" for n in numbers]
        pq.write_table(pa.table({"text": texts}), draft / f"{number:05d}.parquet")
    lines = [json.dumps({"context": f"{n} w01", "continuation": "w02"}) for n in range(40)]
    (folder / "target.jsonl").write_text("\n".join(lines) + "\n")
    draft.rename(folder / "pool")


def num_copies(rows: int) -> int:
    """How many documents of the generated pool are copies of an earlier one."""
    return sum(n > EVERY for n in range(EVERY - 1, rows, EVERY))


def _do(folder: Path, rows: int, step: str, workers: int) -> None:
    """One step, and what it took."""
    peak = PeakMemory()
    steps = {"reading": _read, "deduplication": _deduplicate}
    do = steps.get(step, partial(_run_until, str(STEPS[step]), workers))
    seconds = do(folder, rows)
    found = {"seconds": seconds, "bytes": peak.stop()}
    (folder / "step.json").write_text(json.dumps(found))


def _read(folder: Path, rows: int) -> float:
    from dsdm.data.documents import PoolConfig, list_pieces, list_pool_files, read_documents

    config = PoolConfig(files=[str(folder / "pool")])
    start = time.monotonic()
    count = 0
    for piece in list_pieces(list_pool_files(config), config):
        for _ in read_documents(piece, config, _refuse):
            count += 1
    assert count == rows, count
    return time.monotonic() - start


def _deduplicate(folder: Path, rows: int) -> float:
    """Hashes each piece as packing does, without tokenizing, and merges the hashes."""
    from dsdm.data.documents import (
        PoolConfig,
        content_hash,
        list_pieces,
        list_pool_files,
        read_documents,
    )
    from dsdm.data.duplicates import find_duplicates
    from dsdm.data.packing import HASH, PackCounts, save_counts
    from dsdm.data.rows import ROW

    config = PoolConfig(files=[str(folder / "pool")])
    scratch = folder / "hashes"
    start = time.monotonic()
    shards = []
    for number, piece in enumerate(list_pieces(list_pool_files(config), config)):
        hashes = [content_hash(one) for one in read_documents(piece, config, _refuse)]
        unique = np.unique(np.array(hashes, np.uint64))
        entries = np.zeros(len(unique), HASH)
        entries["hash"], entries["document"] = unique, np.arange(len(unique))
        shard = scratch / f"{number:05d}"
        shard.mkdir(parents=True)
        np.save(shard / "hashes.npy", entries)
        np.save(shard / "id_hashes.npy", entries[:0])
        rows_of_tokens = np.zeros(len(unique), ROW)
        rows_of_tokens["document"] = np.arange(len(unique))
        np.save(shard / "rows.npy", rows_of_tokens)
        (shard / "rejected.jsonl").touch()
        counts = PackCounts(piece.file.shown, piece.number, piece.is_last)
        counts.documents = counts.rows = len(unique)
        counts.records = counts.file_rows = len(hashes)
        counts.duplicates = len(hashes) - len(unique)
        save_counts(shard, counts)
        shards.append(shard)
    found = scratch / "duplicates"
    found.mkdir()
    left = find_duplicates(shards, "document", 0.0, found)
    assert left.duplicates == num_copies(rows), (left.duplicates, num_copies(rows))
    assert left.documents == rows - left.duplicates
    seconds = time.monotonic() - start
    shutil.rmtree(scratch)
    return seconds


def _refuse(rejected: object) -> None:
    raise SystemExit(f"a generated document is refused: {rejected}")


def _run_until(stage: str, workers: int, folder: Path, rows: int) -> float:
    """The run up to a stage; returns the seconds of its last stage."""
    from dsdm.config import parse_config
    from dsdm.experiment import Experiment
    from dsdm.stages import Workers, run_experiment

    settings = {
        "run": str(folder / "run"),
        "pool": {"files": [str(folder / "pool")]},
        "targets": [{"name": "words", "file": str(folder / "target.jsonl")}],
        "model": {"config": MODEL},
        "tokenizer": {"vocab_size": 512, "sample_bytes": 1_000_000},
        "examples": {"row_tokens": 32},
        "proxies": {
            "count": 1,
            "fraction": min(0.5, 20_000 / rows),
            "train": {"batch_tokens": 4096},
        },
        "directions": {"estimators": ["gradient"], "curvature_rows": 256},
        "scores": SCORES,
        "selection": {"fraction": 0.1},
        "device": "cpu",
    }
    ends: dict[str, float] = {}
    spread = Workers(workers, threads=1) if stage == "scores" else Workers(threads=1)
    run = run_experiment(
        parse_config(settings, Experiment, where="scale"),
        until=stage,
        workers=spread,
        announce=lambda name, made, total: ends.update({name: time.monotonic()}),
    )
    if stage == "examples":
        assert run.examples.num_rows == rows - num_copies(rows)
    names = list(ends)
    return ends[stage] - ends[names[names.index(stage) - 1]]


if __name__ == "__main__":
    main()
