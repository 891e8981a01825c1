"""What a finished direction's calibration says, apart from torch: reports read it too.

`calibration.json` has the spread of the mix and how each direction is scored forward,
`calibration.npz` the calibration rows and their exact scores.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Float, Int

from dsdm.artifacts import write_json
from dsdm.datamodel.config import ScoresConfig
from dsdm.lm.config import Precision

CALIBRATION = "calibration.json"
EXACT = "calibration.npz"
_PREFIX = "scores."
"""Keeps targets apart from `rows` and from the arguments of `np.savez`."""


@dataclass(frozen=True)
class ForwardStep:
    """How one direction is scored forward, and how that agrees with the exact derivative."""

    step: float
    """Half the distance between the two forward passes, in units of the direction."""
    correlation: float
    """Of the forward scores with the exact derivative, on the calibration rows."""
    precision: Precision | None = None
    """Of the passes; None: the experiment's, in runs from before dsdm noted it."""

    def settings(self, config: ScoresConfig) -> ScoresConfig:
        """The experiment's settings in this precision."""
        if self.precision is None:
            return config
        return msgspec.structs.replace(config, precision=self.precision)


@dataclass(frozen=True)
class SavedCalibration:
    """What `save_calibration` wrote."""

    mix_spread: float
    """Standard deviation of the weighted sum of the targets' exact scores at unit spread."""
    steps: Mapping[str, ForwardStep]
    """Of each direction that is scored forward, by target."""


def save_calibration(folder: Path, calibration: SavedCalibration) -> None:
    """Writes the spread of the mix and the steps."""
    write_json(folder / CALIBRATION, asdict(calibration))


def load_calibration(folder: Path) -> SavedCalibration:
    """What `save_calibration` wrote of the directions in a finished folder."""
    found = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    steps = {target: ForwardStep(**line) for target, line in found["steps"].items()}
    return SavedCalibration(found["mix_spread"], steps)


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
