"""The losses of target models that are measured so far."""

from pathlib import Path

import numpy as np

from dsdm.artifacts import load_manifest
from dsdm.evaluation.arms import CompareConfig
from dsdm.evaluation.comparison import Losses
from dsdm.stages.run import compare_folder, evaluation_folder


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
