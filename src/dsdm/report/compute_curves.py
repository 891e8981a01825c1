"""Each arm's loss against what its training took, and where random's curve reaches it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dsdm.evaluation.comparison import ALL_TARGETS, BASELINE, ComparedLoss
from dsdm.evaluation.curve import Bound
from dsdm.evaluation.multiplier import ArmMultiplier
from dsdm.report.transfer import FOR_TARGET

AT_BUDGET = "@"
"""Between an arm's name and how many times the usual budget it is trained on."""


@dataclass(frozen=True)
class ComputeCurve:
    """One arm at the budgets that it was trained at, the smallest first."""

    name: str
    arms: Sequence[str]
    flops: Float[np.ndarray, " budgets"]
    """Of one training."""
    losses: Float[np.ndarray, " budgets"]
    """Nats a target token."""
    lows: Float[np.ndarray, " budgets"]
    """The interval of the difference to random, about the loss; NaN for random itself."""
    highs: Float[np.ndarray, " budgets"]


@dataclass(frozen=True)
class ComputeReading:
    """How a gross multiplier is read: along one loss, from an arm to random's curve."""

    arm: str
    loss: float
    flops: float
    """Of the arm's training."""
    needed_flops: float
    """Of random's training to the same loss, or the end of what was measured."""
    bound: Bound
    """`at least` and `at most` where `needed_flops` is such an end."""

    @property
    def multiplier(self) -> float:
        """Random's compute over the arm's."""
        return self.needed_flops / self.flops


def compute_curves(
    target: str, lines: Sequence[ComparedLoss], flops: Mapping[str, float]
) -> list[ComputeCurve]:
    """The arms of one target as curves, random first; arms selected for another are left out.

    Args:
        target: What the lines are about.
        lines: The arms on that target.
        flops: Of one training, by arm; arms that are not here are left out.
    """
    by_name: dict[str, list[ComparedLoss]] = {BASELINE: []}
    known = [line for line in lines if line.arm in flops]
    for line in sorted(known, key=lambda line: flops[line.arm]):
        name = line.arm.partition(AT_BUDGET)[0]
        _, is_for_one, chosen_for = name.partition(FOR_TARGET)
        if not is_for_one or (chosen_for == target and target != ALL_TARGETS):
            by_name.setdefault(name, []).append(line)
    return [_curve(name, found, flops) for name, found in by_name.items() if found]


def compute_readings(
    target: str, curves: Sequence[ComputeCurve], found: Sequence[ArmMultiplier]
) -> list[ComputeReading]:
    """The gross multipliers of a target, for the arms that are in its curves."""
    points = {
        arm: (float(loss), float(flops))
        for curve in curves
        for arm, loss, flops in zip(curve.arms, curve.losses, curve.flops, strict=True)
    }
    return [
        ComputeReading(
            line.arm,
            *points[line.arm],
            points[line.arm][1] * line.gross.value.value,
            line.gross.value.bound,
        )
        for line in found
        if line.target == target and line.arm in points
    ]


def _curve(name: str, lines: Sequence[ComparedLoss], flops: Mapping[str, float]) -> ComputeCurve:
    losses = np.array([line.loss_nats for line in lines])
    ends = np.array(
        [
            (
                line.difference.low - line.difference.mean,
                line.difference.high - line.difference.mean,
            )
            if line.difference
            else (math.nan, math.nan)
            for line in lines
        ]
    )
    return ComputeCurve(
        name,
        [line.arm for line in lines],
        np.array([flops[line.arm] for line in lines]),
        losses,
        losses + ends[:, 0],
        losses + ends[:, 1],
    )
