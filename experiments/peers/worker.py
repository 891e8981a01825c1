"""One method in the environment of its library: timed whenever the benchmark asks for it.

    python -m peers.worker MODULE METHOD PRECISION FOLDER

Needs torch and transformers, and nothing of dsdm: this file runs beside every peer. It sets the
method up, says so, and answers each line of its input by one more run, all in lines of JSON.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import PeakMemory


@dataclass(frozen=True)
class Job:
    """What every method is given."""

    folder: Path
    """Holds `model`, as transformers saves it; the method may write beside it."""
    precision: str
    """`float32` or `bfloat16`: of the passes over the candidates."""
    candidates: np.ndarray
    """Token ids, shape (rows, tokens)."""
    targets: np.ndarray
    """Rows whose mean is the one target."""
    batch_rows: int
    """Rows in one pass through the model."""
    projection: int
    """Dimensions of a dense projection, and about that many of a factorised one."""
    damping: float
    """Added to TRAK's Gram matrix, as a share of the mean square of a candidate's features."""
    threads: int

    def model(self, **options: Any) -> Any:
        """The model in evaluation mode, its weights in fp32 unless `dtype` says otherwise."""
        import torch
        from transformers import AutoModelForCausalLM

        options = {"dtype": torch.float32, **options}
        return AutoModelForCausalLM.from_pretrained(self.folder / "model", **options).eval()

    def batches(self, rows: np.ndarray) -> list[Any]:
        """The rows as tensors of `batch_rows` rows."""
        import torch

        return list(torch.from_numpy(rows).split(self.batch_rows))


@dataclass(frozen=True)
class Method:
    """A method that has been set up: its target and what it takes only once are done."""

    score: Callable[[np.ndarray], np.ndarray | None]
    """A score for each of these rows of tokens; None where the pass gives none."""
    bytes_per_row: int = 0
    """What it stores of a candidate on the way to a score."""
    takes_once: bool = False
    """Whether `score` also does what does not grow with the candidates. Then its time is that of
    all candidates less that of one batch, as if the batch's rows cost as much as the others."""


@dataclass(frozen=True)
class Answer:
    """One run."""

    seconds_per_row: float
    peak_bytes: int
    bytes_per_row: int
    scores: list[float] | None


def read_job(folder: Path, precision: str) -> Job:
    """The job that `peers.job.write_job` wrote."""
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("candidates", "targets")}
    settings = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return Job(folder=folder, precision=precision, **arrays, **settings)


def measure(method: Method, job: Job) -> Answer:
    """Runs the method once over all candidates, and over one batch where it must."""
    memory = PeakMemory()
    start = time.perf_counter()
    scores = method.score(job.candidates)
    seconds = time.perf_counter() - start
    peak = memory.stop()
    rows = len(job.candidates)
    if method.takes_once and rows > job.batch_rows:
        start = time.perf_counter()
        method.score(job.candidates[: job.batch_rows])
        seconds -= time.perf_counter() - start
        rows -= job.batch_rows
    values = None if scores is None else [float(score) for score in scores]
    return Answer(seconds / rows, peak, method.bytes_per_row, values)


def serve(make_method: Callable[[Job], Method], job: Job, say: Callable[[Any], None]) -> None:
    """Answers one run for each line of the standard input."""
    import torch

    torch.set_num_threads(job.threads)
    method = make_method(job)
    say({"ready": True})
    for _ in sys.stdin:
        say(asdict(measure(method, job)))
        _give_memory_back()


def _give_memory_back() -> None:
    """Many processes wait beside the one whose turn it is."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Reads the command line; whatever goes wrong is said as JSON too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("method")
    parser.add_argument("precision")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    # What the libraries print must not come between the lines of JSON.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        methods = importlib.import_module(f"peers.{options.module}").METHODS
        serve(methods[options.method], read_job(options.folder, options.precision), say)
    except Exception as error:  # a peer may raise anything, and its row says what
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
