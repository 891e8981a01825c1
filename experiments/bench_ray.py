"""Scoring with two Ray workers against two processes, in interleaved repeats.

    python experiments/bench_ray.py [--rows 200000] [--repeats 5]

The same pool, proxy and directions; each repeat scores all files of the pool anew. Workers are
started, and have scored once, before anything is timed. Ratios are taken repeat by repeat.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from record import figure, write_figures
from scale_10m import SCORES, make_pool

from dsdm.config import parse_config
from dsdm.execute import Submit, executor, make_stage
from dsdm.experiment import Experiment
from dsdm.graph import Graph
from dsdm.stages import STAGES, Workers, run_experiment, run_of
from dsdm.stages.scores import MERGED

FILES = 8
MODEL = {"model_type": "gpt2", "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 2}


def main() -> None:
    """Measures and writes `ray.scoring_time_over_inprocess`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    # Ray runs its workers at niceness 15 otherwise, so that anything else goes before them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling
    with tempfile.TemporaryDirectory() as folder:
        experiment = _experiment(Path(folder), options.rows)
        run_experiment(experiment, until="directions", workers=Workers(threads=1))
        seconds = _interleaved(experiment, options.repeats)
    ratios = seconds[1] / seconds[0]
    low, high = np.quantile(ratios, [0.25, 0.75])
    unit = f"ratio, quartiles, {options.rows:,} rows in {np.median(seconds[0]):.1f} s"
    row = figure("ray.scoring_time_over_inprocess", float(np.median(ratios)), unit, low, high)
    write_figures("ray", [row])


def _experiment(folder: Path, rows: int) -> Experiment:
    make_pool(folder, rows, file_rows=-(-rows // FILES))
    settings = {
        "run": str(folder / "run"),
        "pool": {"files": [str(folder / "pool")]},
        "targets": [{"name": "words", "file": str(folder / "target.jsonl")}],
        "model": {"config": MODEL},
        "tokenizer": {"vocab_size": 512, "sample_bytes": 1_000_000},
        "examples": {"row_tokens": 32},
        "proxies": {"count": 1, "fraction": 0.05, "train": {"batch_tokens": 4096}},
        "directions": {"estimators": ["gradient"]},
        "scores": SCORES,
        "selection": {"fraction": 0.1},
        "device": "cpu",
    }
    return parse_config(settings, Experiment, where="bench_ray")


def _interleaved(experiment: Experiment, repeats: int) -> np.ndarray:
    """Seconds in processes and on Ray in each repeat, after one warm-up: shape (2, repeats)."""
    seconds = np.zeros((2, repeats + 1))
    with (
        executor(Workers(2, threads=1)) as processes,
        executor(Workers(2, threads=1, ray="local")) as ray,
    ):
        for repeat in range(repeats + 1):
            for i, submit in enumerate((processes, ray)):
                seconds[i, repeat] = _score(experiment, submit)
    return seconds[:, 1:]


def _score(experiment: Experiment, submit: Submit) -> float:
    run = run_of(experiment)
    shutil.rmtree(run.folder / "scores", ignore_errors=True)
    shards = [one for one in Graph(run, STAGES)["scores"] if one.key != MERGED]
    start = time.perf_counter()
    made = make_stage(submit, shards)
    seconds = time.perf_counter() - start
    assert made == len(shards) == FILES, made
    return seconds


if __name__ == "__main__":
    main()
