"""Runs that share finished parts with another run, so that these need not be made again."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from dsdm.experiment import Experiment, load_experiment

TEXTS = ("tokenizer", "examples", "targets", "overlap")
"""What is made of the pool and the targets before any model."""


def experiment_of_seed(path: Path, overrides: Sequence[tuple[str, str]], seed: int) -> Experiment:
    """The experiment in a file with another seed, in a run of its own: RUN-SEED."""
    run = load_experiment(path, overrides).run
    return load_experiment(path, [*overrides, ("run", f"{run}-{seed}"), ("seed", str(seed))])


def link_parts(run: Path, other: Path, names: Iterable[str]) -> None:
    """Gives `other` the named parts of `run` that it lacks, as hard links."""
    for name in names:
        if not (other / name).exists():
            draft = other / f".{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(run / name, draft, copy_function=os.link)
            draft.rename(other / name)
