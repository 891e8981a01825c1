"""Estimators: each turns targets into directions for one proxy, and lives in one file.

An estimator is a function `(Problem, DirectionsConfig) -> {target: tensors by parameter name}`.
To add one, write its file, name it in `ESTIMATORS`, and say in `config.TRAITS`, which the command
line reads because it knows no torch, what is special about it. What a curvature costs is counted by
`datamodel.curvature_costs`.

`metagradient` is none of them: it is of a proxy's whole training and gives directions at all of its
checkpoints at once (`estimate.estimate_of_training`).
"""

from collections.abc import Callable

from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.estimators.ekfac import estimate_ekfac
from dsdm.datamodel.estimators.gradient import estimate_gradient
from dsdm.datamodel.estimators.less import estimate_less
from dsdm.datamodel.estimators.metagradient import metagradient_directions
from dsdm.datamodel.estimators.problem import Problem, Tensors
from dsdm.datamodel.estimators.trak import estimate_trak

Estimator = Callable[[Problem, DirectionsConfig], dict[str, Tensors]]

ESTIMATORS: dict[str, Estimator] = {
    "ekfac": estimate_ekfac,
    "gradient": estimate_gradient,
    "less": estimate_less,
    "trak": estimate_trak,
}

__all__ = ["ESTIMATORS", "Estimator", "Problem", "Tensors", "metagradient_directions"]
