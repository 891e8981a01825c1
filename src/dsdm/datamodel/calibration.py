"""What a finished direction's calibration says, apart from torch: reports read it too.

`calibration.json` has the spreads of directions and how each is scored forward, `calibration.npz`
the calibration examples and their exact scores.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dsdm.artifacts import write_json
from dsdm.precision import Precision

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
    """Of the forward scores with the exact derivative, on the calibration examples."""
    precision: Precision
    """Of the passes."""


@dataclass(frozen=True)
class Calibration:
    """The spreads of an estimator's directions at one checkpoint, and how they are scored."""

    mix_spread: float
    """Standard deviation of the weighted sum of the targets' exact scores at unit spread."""
    spreads: Mapping[str, float]
    """By target: the standard deviation of the exact scores along the estimator's own direction,
    which is divided by it."""
    steps: Mapping[str, ForwardStep]
    """Of each direction that is scored forward, by target."""


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes the spreads and the steps."""
    write_json(folder / CALIBRATION, asdict(calibration))


def load_calibration(folder: Path) -> Calibration:
    """What `save_calibration` wrote of the directions in a finished folder."""
    found = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    steps = {target: ForwardStep(**line) for target, line in found["steps"].items()}
    return Calibration(found["mix_spread"], found["spreads"], steps)


def save_exact(
    folder: Path,
    rows: Int[np.ndarray, " examples"],
    scores: Mapping[str, Float[np.ndarray, " examples"]],
) -> None:
    """Writes the calibration examples' numbers in the pool and their scores by target."""
    named = {f"{_PREFIX}{target}": values for target, values in scores.items()}
    np.savez(folder / EXACT, allow_pickle=False, rows=rows, **named)


def load_exact(
    folder: Path,
) -> tuple[Int[np.ndarray, " examples"], dict[str, Float[np.ndarray, " examples"]]]:
    """The examples' numbers and their scores by target, as `save_exact` wrote them."""
    with np.load(folder / EXACT, allow_pickle=False) as arrays:
        names = [name for name in arrays if name.startswith(_PREFIX)]
        return arrays["rows"], {name.removeprefix(_PREFIX): arrays[name] for name in names}
