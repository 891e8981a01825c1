"""What people would have done otherwise: each baseline turns `BaselineInputs` into `Scores`.

To add one, write a function from inputs and settings to scores, and register it with the decorator
`baseline`, with its settings, help and cost: in a module that `plugins` names, in a package with an
entry point in the group `dsdm.baselines`, or here. A module that registers one is imported whenever
an experiment is read, so it imports libraries that take seconds to load in its functions.
"""

# Importing a module registers its baseline.
from dsdm.baselines import bm25, classifier, dsir, less, low_loss, semdedup, similarity
from dsdm.baselines.config import (
    BaselinesConfig,
    CommonBaselinesConfig,
    baseline_settings,
    baselines_config,
    reads_proxies,
)
from dsdm.baselines.inputs import BaselineInputs, ProxyCheckpoint
from dsdm.baselines.registry import BASELINES, Baseline, NoSettings, baseline

__all__ = [
    "BASELINES",
    "Baseline",
    "BaselineInputs",
    "BaselinesConfig",
    "CommonBaselinesConfig",
    "NoSettings",
    "ProxyCheckpoint",
    "baseline",
    "baseline_settings",
    "baselines_config",
    "bm25",
    "classifier",
    "dsir",
    "less",
    "low_loss",
    "reads_proxies",
    "semdedup",
    "similarity",
]
