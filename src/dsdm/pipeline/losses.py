"""Losses of target models: measuring them, and loading those that are measured so far."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dsdm.artifacts import load_manifest
from dsdm.data.sequences import Rows
from dsdm.data.tasks import PARTS, Part, load_target
from dsdm.evaluation.arms import CompareConfig
from dsdm.evaluation.comparison import Losses
from dsdm.pipeline.model_stages import target_rows
from dsdm.pipeline.run import Run, compare_folder, evaluation_folder

EVALUATION_TOKENS = 16384
"""Tokens in one forward pass, padding included."""


def part_losses(run: Run, part: Part, model: Path) -> dict[str, np.ndarray]:
    """The loss of each example of one part of every target, in nats a target token."""
    return _losses(run, model, target_rows(run, part))


def heldout_losses(run: Run, model: Path) -> dict[str, np.ndarray]:
    """The loss of each example of every task that nothing is selected for: all their parts."""
    folders = {task.name: run.data_folder / "heldout" / task.name for task in run.compare.heldout}
    by_part = [
        _losses(run, model, {name: load_target(path, part) for name, path in folders.items()})
        for part in PARTS
    ]
    return {name: np.concatenate([losses[name] for losses in by_part]) for name in folders}


def load_losses(run_folder: Path, part: str, compare: CompareConfig, targets: list[str]) -> Losses:
    """The loss of each example by arm, seed and target, of the evaluations that are finished."""
    losses: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    comparison = compare_folder(run_folder, compare)
    for arm in compare.arms:
        for seed in range(compare.seeds):
            folder = evaluation_folder(comparison, part, f"{arm}-{seed}")
            if load_manifest(folder) is not None:
                losses.setdefault(arm, {})[seed] = {
                    target: np.load(folder / f"{target}.npy") for target in targets
                }
    return losses


def _losses(run: Run, model: Path, rows: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    from dsdm.evaluation.evaluate import example_losses
    from dsdm.lm.model import load_saved

    trained = load_saved(model, run.device)
    return {
        name: example_losses(trained, examples, batch_tokens=EVALUATION_TOKENS)
        for name, examples in rows.items()
    }
