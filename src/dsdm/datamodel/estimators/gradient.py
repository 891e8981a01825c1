"""No curvature: the direction is the targets' mean gradient itself."""

from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.estimators.problem import Problem, Tensors


def estimate_gradient(problem: Problem, config: DirectionsConfig) -> dict[str, Tensors]:
    """The mean output gradient of each target, over the layers that directions move."""
    return {target: problem.target_gradient(target, config) for target in problem.targets}
