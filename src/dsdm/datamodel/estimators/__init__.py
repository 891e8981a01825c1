"""Estimators: each turns targets into directions, in one file with its settings and its cost.

To add one, write a function from `EstimatorInputs` and settings to tensors by target and parameter
name, and register it with the decorator `estimator`: in a module that `plugins` names, in a package
with an entry point in the group `dsdm.estimators`, or here.
"""

# Importing a module registers its estimator.
from dsdm.datamodel.estimators import ekfac, gradient, metagradient, trak
from dsdm.datamodel.estimators.costs import EstimatorCost, Workload
from dsdm.datamodel.estimators.registry import (
    ESTIMATORS,
    CurvatureConfig,
    Estimator,
    NoSettings,
    estimator,
    known_estimator,
)

__all__ = [
    "ESTIMATORS",
    "CurvatureConfig",
    "Estimator",
    "EstimatorCost",
    "NoSettings",
    "Workload",
    "ekfac",
    "estimator",
    "gradient",
    "known_estimator",
    "metagradient",
    "trak",
]
