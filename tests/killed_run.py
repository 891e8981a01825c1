"""Runs the toy pipeline in processes that kill themselves, for test_interruption.py.

    python -m tests.killed_run WORLD NUM_POINTS

makes WORLD/undisturbed, and WORLD/killed-N for each of NUM_POINTS boundaries N: a process that ends
with SIGKILL at its N-th boundary, and one more that finishes. WORLD/again-and-again is made by
processes that each are killed a few boundaries further on. A boundary is the moment before or after
a rename, a removal, a write of an array or table, or a step of the optimizer. One process imports
everything and forks the others, because importing takes longer than running.
"""

import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401 - every fork needs it

import dsdm.data.near_duplicates
import dsdm.data.overlap
import dsdm.datamodel.score_shard
import dsdm.evaluation.evaluate
import dsdm.lm.train  # noqa: F401 - every fork needs them
from dsdm.pipeline import run_experiment
from tests.toy import toy_experiment

TRAIN = {
    "lr": 0.01,
    "batch_tokens": 64,
    "checkpoint_seconds": 0.0,  # as often as it can: every 20 steps
    "precision": "float32",
}
WATCHED: tuple[tuple[Any, str], ...] = (
    (os, "replace"),
    (os, "rename"),
    (shutil, "rmtree"),
    (np, "save"),
    (np, "savez"),
    (pq, "write_table"),
    (torch.optim.AdamW, "step"),
)


class Boundaries:
    """Names the boundaries in `passed`, and ends the process at the `last`."""

    def __init__(self, last: int | None) -> None:
        self.passed: list[str] = []
        self.last = last

    def cross(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.cross(f"before {name}")
            result = original(*args, **kwargs)
            self.cross(f"after {name}")
            return result

        setattr(owner, name, watched)


def run_pipeline(world: Path, last: int | None) -> list[str]:
    """The boundaries that a whole run passes."""
    boundaries = Boundaries(last)
    for owner, name in WATCHED:
        boundaries.watch(owner, name)
    fields = {"count": 1, "fraction": 0.5, "epochs": 2.5, "train": TRAIN}
    experiment = toy_experiment(
        world,
        proxies=fields,
        directions={"estimators": ["trak", "gradient"], "curvature_rows": 20, "projection": 3},
        # Backward, so that both are scored in one pass, and a kill may fall between the two.
        scores={"method": "backward", "precision": "float32", "calibration_rows": 20},
        selection={"fraction": 0.3},
        compare={"arms": ["top"], "epochs": 3, "train": TRAIN},
    )
    run_experiment(experiment)
    return boundaries.passed


def in_a_fork(world: Path, last: int | None) -> bool:
    """Whether the run finished; False where it was killed at its last boundary.

    A run that finishes leaves the names of its boundaries in WORLD/boundaries.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - progress bars
            passed = run_pipeline(world, last)
            (world / "boundaries").write_text("\n".join(passed), encoding="utf-8")
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must never return
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return True
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    sys.exit(f"a run ended with status {status}, killed at {last}")


def keep(world: Path, name: str) -> None:
    """Puts the finished run aside: every run has the same folder, which its manifests name."""
    (world / "run").rename(world / name)


def chosen_points(names: list[str], count: int) -> list[int]:
    """Half of them between writes, half within trainings; counted from 1."""
    steps = [i for i, name in enumerate(names, 1) if name.endswith("step")]
    others = [i for i, name in enumerate(names, 1) if not name.endswith("step")]
    rng = random.Random(0)
    num_steps = min(count // 3, len(steps))
    return sorted(rng.sample(steps, num_steps)) + sorted(
        rng.sample(others, min(count - num_steps, len(others)))
    )


def main(world: Path, num_points: int) -> None:
    assert in_a_fork(world, None)
    names = (world / "boundaries").read_text(encoding="utf-8").split("\n")
    keep(world, "undisturbed")
    for last in chosen_points(names, num_points):
        assert not in_a_fork(world, last), f"not killed at {last}"
        assert in_a_fork(world, None)
        keep(world, f"killed-{last}-{names[last - 1].replace(' ', '-')}")
    rng, kills = random.Random(1), 0
    while not in_a_fork(world, rng.randint(40, 80)):
        kills += 1
        assert kills < 100, "no progress"
    keep(world, "again-and-again")
    assert kills > 5, "the last run was hardly interrupted"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
