"""Metagradients: a proxy's training followed backwards; the mathematics is `metagradient_math`."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from dsdm.config import Config
from dsdm.datamodel.estimators.costs import EstimatorCost, Workload
from dsdm.datamodel.estimators.registry import estimator

if TYPE_CHECKING:
    from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors


class MetagradientConfig(Config):
    """Settings of `metagradient`."""

    tail: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.65
    """The share of a proxy's training, its last part, that is followed back."""
    smoothing: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    """Added to Adam's second moments where its steps are differentiated, as a share of each
    parameter's mean."""


def metagradient_cost(settings: MetagradientConfig, workload: Workload) -> EstimatorCost:
    """The training, once forwards and once backwards."""
    assert workload.replay is not None, "there is a training to follow"
    flops, held = workload.replay(workload.num_directions, settings.tail)
    return EstimatorCost(flops=flops, held_bytes=held)


def check_tail(settings: MetagradientConfig, num_checkpoints: int) -> None:
    """Raises ValueError where the first checkpoint is before what is followed back."""
    if 1 / num_checkpoints <= 1 - settings.tail:
        raise ValueError(
            f"`metagradient` follows back the last {settings.tail:g} of a training, and the first "
            f"of {num_checkpoints} checkpoints is before: set fewer, or a larger "
            "directions.metagradient.tail"
        )


@estimator(
    "metagradient",
    settings=MetagradientConfig,
    help="a proxy's training followed backwards, no curvature approximated; needs `loglik`",
    cost=metagradient_cost,
    needs_training=True,
    check=check_tail,
)
def metagradient(
    inputs: "EstimatorInputs", settings: MetagradientConfig
) -> "list[dict[str, Tensors]]":
    """For each checkpoint of the training, in order, each target's direction there."""
    from dsdm.datamodel.estimators.metagradient_math import metagradient_directions

    return metagradient_directions(inputs, settings)
