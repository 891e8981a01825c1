"""What a selection made for one target does to the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dsdm.evaluation.comparison import ComparedLoss
from dsdm.reporting.measured import FOR_TARGET
from dsdm.reporting.section import section
from dsdm.reporting.view import RunView

MIX_ROW = "all targets"


@dataclass(frozen=True)
class TransferMatrix:
    """One method's selections, a row for each target that one was made for."""

    method: str
    rows: Sequence[str]
    """Targets selected for; the last may be `MIX_ROW`."""
    arms: Sequence[str]
    """The arm that each row shows."""
    columns: Sequence[str]
    """Targets evaluated on, and their mean where there are several."""
    differences: Float[np.ndarray, "rows columns"]
    """Loss minus random's in nats a target token, lower is better; NaN where not measured."""
    lows: Float[np.ndarray, "rows columns"]
    highs: Float[np.ndarray, "rows columns"]

    @property
    def largest(self) -> float:
        """The largest difference in size, to shade by; 1 where none differs."""
        known = np.abs(self.differences[~np.isnan(self.differences)])
        return float(known.max()) if known.size and known.max() > 0 else 1.0

    def is_clear(self, row: int, column: int) -> bool:
        """Whether the interval is all on one side of zero."""
        return bool(self.lows[row, column] > 0 or self.highs[row, column] < 0)


@section("transfer", order=30, title="Transfer")
def transfer(run: RunView) -> list[dict[str, Any]] | None:
    """Each part on which arms for single targets have losses."""
    estimator, targets = run.experiment.selecting_estimator, run.experiment.targets
    found = []
    for measured in run.measured:
        has_top = estimator not in measured.losses and "top" in measured.losses
        matrices = transfer_matrices(
            measured.lines,
            [target.name for target in targets],
            {estimator: "top"} if has_top else {},
        )
        if matrices:
            found.append({"part": measured.part, "title": measured.title, "matrices": matrices})
    return found or None


def transfer_matrices(
    lines: Sequence[ComparedLoss], targets: Sequence[str], mix_arms: Mapping[str, str]
) -> list[TransferMatrix]:
    """A matrix for each method that has arms called `METHOD:TARGET`.

    Args:
        lines: Every arm on everything that it was evaluated on.
        targets: That arms may be selected for.
        mix_arms: By method, the arm that is selected for all targets at once, where it is not
            called as the method is.
    """
    arms = dict.fromkeys(line.arm for line in lines)
    methods = dict.fromkeys(arm.partition(FOR_TARGET)[0] for arm in arms if FOR_TARGET in arm)
    differences = {(line.arm, line.target): line.difference for line in lines}
    columns = list(dict.fromkeys(line.target for line in lines))
    matrices = []
    for method in methods:
        rows = {target: f"{method}{FOR_TARGET}{target}" for target in targets}
        rows = {target: arm for target, arm in rows.items() if arm in arms}
        if not rows:
            continue
        mix_arm = mix_arms.get(method, method)
        if mix_arm in arms:
            rows[MIX_ROW] = mix_arm
        cells = np.full((3, len(rows), len(columns)), math.nan)
        for i, arm in enumerate(rows.values()):
            for j, column in enumerate(columns):
                interval = differences.get((arm, column))
                if interval is not None:
                    cells[:, i, j] = interval.mean, interval.low, interval.high
        matrices.append(TransferMatrix(method, list(rows), list(rows.values()), columns, *cells))
    return matrices
