"""No curvature: the direction is the targets' mean gradient itself."""

from typing import TYPE_CHECKING

from dsdm.datamodel.estimators.registry import NoSettings, estimator

if TYPE_CHECKING:
    from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors


@estimator("gradient", help="the targets' mean gradient, no curvature")
def gradient(inputs: "EstimatorInputs", settings: NoSettings) -> "dict[str, Tensors]":
    """The mean gradient of each target, over the layers that directions move."""
    return {target: inputs.target_gradient(target) for target in inputs.targets}
