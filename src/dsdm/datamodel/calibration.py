"""The calibration rows' exact scores on disk, apart from torch: reports read them too."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

EXACT = "calibration.npz"
_PREFIX = "scores."
"""Keeps targets apart from `rows` and from the arguments of `np.savez`."""


def save_exact(
    folder: Path,
    rows: Int[np.ndarray, " rows"],
    scores: Mapping[str, Float[np.ndarray, " rows"]],
) -> None:
    """Writes the rows' numbers and their scores by target."""
    named = {f"{_PREFIX}{target}": values for target, values in scores.items()}
    np.savez(folder / EXACT, allow_pickle=False, rows=rows, **named)


def load_exact(folder: Path, targets: Iterable[str]) -> dict[str, Float[np.ndarray, " rows"]]:
    """The scores that `save_exact` wrote, of some targets."""
    with np.load(folder / EXACT, allow_pickle=False) as arrays:
        # Earlier runs have the bare names.
        return {t: arrays[f"{_PREFIX}{t}" if f"{_PREFIX}{t}" in arrays else t] for t in targets}
