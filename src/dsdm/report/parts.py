"""What the report's sections show: plain data, and drawings of it.

A field that is marked `PAGE_ONLY` is left out of `figures.json`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from dsdm.evaluation.agreement import Agreement, mean_agreements
from dsdm.evaluation.comparison import ComparedLoss
from dsdm.evaluation.multiplier import ArmMultiplier
from dsdm.report.transfer import TransferMatrix

PAGE_ONLY = {"page_only": True}
HELDOUT = "heldout"
"""The part that is no part of the targets: tasks that nothing was selected for."""


@dataclass(frozen=True)
class Figure:
    """A drawing with what it shows."""

    title: str
    svg: Markup = field(metadata=PAGE_ONLY)
    data: Mapping[str, Any]
    """What is drawn, as plain values."""


@dataclass(frozen=True)
class Selected:
    """How much was selected."""

    candidates: int
    tokens: int
    pool_candidates: int
    pool_tokens: int


@dataclass(frozen=True)
class SourceShare:
    """One source's part of the selection and of the pool; shares are of tokens, in 0..1."""

    name: str
    selected_share: float
    pool_share: float
    selected_candidates: int
    pool_candidates: int
    mean_score: float

    @property
    def ratio(self) -> float:
        """How many times as common in the selection as in the pool."""
        return self.selected_share / self.pool_share if self.pool_share else math.nan


@dataclass(frozen=True)
class Matrix:
    """Correlations of some columns with each other."""

    title: str
    over: str
    """What the correlations are over, such as `5,000 candidates`."""
    note: str
    labels: Sequence[str]
    values: Float[np.ndarray, "labels labels"]

    def agreements(self) -> list[Agreement]:
        """Means over pairs of proxies and over pairs of targets."""
        return mean_agreements(self.labels, self.values, self.over)


@dataclass(frozen=True)
class Calibration:
    """How well one direction's forward scores agree with the exact derivative."""

    method: str
    proxy: str
    target: str
    step: float
    correlation: float
    precision: str


@dataclass(frozen=True)
class TargetOverlap:
    """What one target shares with the pool, 13 words in a row."""

    target: str
    examples: int
    overlapping: int
    candidates: int


@dataclass(frozen=True)
class StageCost:
    """What a stage's finished artifacts took."""

    stage: str
    artifacts: int
    seconds: float
    flops: float
    trainings: float = math.nan
    """`flops` as a share of training one target model; NaN where none is trained."""


@dataclass(frozen=True)
class ComparedTarget:
    """The arms of a comparison on one target."""

    name: str
    lines: Sequence[ComparedLoss]
    figure: Figure | None
    compute_figure: Figure | None = None
    """Loss against training compute."""
    multipliers: Sequence[ArmMultiplier] = ()


@dataclass(frozen=True)
class Comparison:
    """The arms of a comparison on one part of the targets, or on other tasks."""

    part: str
    targets: Sequence[ComparedTarget]
    note: str
    transfers: Sequence[TransferMatrix] = ()

    @property
    def title(self) -> str:
        """What the arms are compared on."""
        if self.part == HELDOUT:
            return "tasks that nothing was selected for"
        return f"the targets' {self.part} part"
