"""A baseline in one file outside of the project."""

import numpy as np

from dsdm.baselines import BaselineInputs, baseline
from dsdm.config import Config
from dsdm.selection import Scores


class ShortestConfig(Config):
    """Short texts."""

    power: float = 1.0
    """Of the number of tokens."""


@baseline("shortest", help="Short texts first.", settings=ShortestConfig, sees_targets=False)
def shortest(inputs: BaselineInputs, settings: ShortestConfig) -> Scores:
    """Minus a power of each candidate's tokens."""
    return inputs.scores(-(inputs.num_tokens.astype(np.float64) ** settings.power), "shortest")
