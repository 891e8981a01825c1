"""Settings of the bank of retrained models, apart from torch so that the command line is quick."""

from typing import Annotated

import msgspec

from dsdm.config import Config
from dsdm.lm.config import TrainConfig

Count = Annotated[int, msgspec.Meta(ge=0)]


class LdsConfig(Config):
    """Models retrained on random subsets of the pool: the truth that scores are held against."""

    halves: Count = 100
    """Uniformly random subsets."""
    skewed: Count = 100
    """Subsets in which each source has a random weight; random halves hardly differ."""
    seeds: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Trainings on each subset; each renews initial weights and order. One has no noise ceiling."""
    share: float = 0.5
    """Share of the pool's tokens in each subset; of its rows with `train.batch_rows`."""
    skew: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """Standard deviation of the logarithms of the sources' weights."""
    epochs: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Passes over a subset."""
    train: TrainConfig = TrainConfig()
    """Optimizer and schedule."""

    def __post_init__(self) -> None:
        """Refuses a bank that can't be made."""
        if not 0 < self.share < 1:
            raise ValueError(f"`share` must be above 0 and below 1, got {self.share}")
        if self.halves + self.skewed < 2:
            raise ValueError("a rank correlation needs `halves` or `skewed` subsets, 2 or more")
