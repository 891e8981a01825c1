"""TRAK as DsDm uses it: a Gram matrix of projected gradients; the mathematics is `trak_math`."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from dsdm.datamodel.estimators.costs import (
    EstimatorCost,
    LayerShape,
    Number,
    Workload,
    formed_flops,
)
from dsdm.datamodel.estimators.registry import CurvatureConfig, estimator

if TYPE_CHECKING:
    from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors

CHOLESKY_SHARE = 1 / 30
"""What a Cholesky factorization costs, as a share of an eigendecomposition."""


class TrakConfig(CurvatureConfig):
    """Settings of `trak`."""

    damping: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """Added to every eigenvalue, as a share of the mean of those that the sample determines."""
    projection: Annotated[int, msgspec.Meta(ge=1)] = 32
    """Random projection: each layer's gradient becomes projection x projection."""


def trak_cost(settings: TrakConfig, workload: Workload) -> EstimatorCost:
    """Projected gradients of the sample and their Gram matrix, of examples or of dimensions."""
    size, examples, width = workload.size, workload.examples, settings.projection
    sides = [(min(width, la.d_out), min(width, la.d_in)) for la in workload.layers]
    dim = sum(left * right for left, right in sides)
    features = sum(
        _features(layer, *side, size, examples)
        for layer, side in zip(workload.layers, sides, strict=True)
    )
    # Solved through the smaller of both.
    side = min(dim, examples)
    return EstimatorCost(
        sample_passes=1,
        flops=features + 2 * examples * dim * side,
        cubes=CHOLESKY_SHARE * side**3,
        held_bytes=8.0 * 2 * side**2 + (4.0 * examples * dim if examples < dim else 0.0),
        dimension=dim,
    )


@estimator(
    "trak",
    settings=TrakConfig,
    help="the DsDm paper's: a Gram matrix of randomly projected gradients",
    cost=trak_cost,
)
def trak(inputs: "EstimatorInputs", settings: TrakConfig) -> "dict[str, Tensors]":
    """Directions through the damped inverse of the projected gradients' joint Gram matrix."""
    from dsdm.datamodel.estimators.trak_math import estimate_trak

    return estimate_trak(inputs, settings)


def _features(layer: LayerShape, left: int, right: int, size: Number, examples: Number) -> Number:
    """Each example's gradient between two projections."""
    d_in, d_out = layer.d_in, layer.d_out
    if layer.is_table:
        return formed_flops(layer, size) + examples * 2 * left * d_in * (d_out + right)
    return size * 2 * (left * d_out + right * d_in + left * right)
