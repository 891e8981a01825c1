"""EK-FAC: eigenvalue-corrected Kronecker factors at full width; the mathematics is `ekfac_math`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

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

BASIS_SIZE = 256
"""Tokens for each dimension of the widest layer that eigenbases are taken from: George et al. renew
them less often than the eigenvalues, which decide more."""


class EkfacConfig(CurvatureConfig):
    """Settings of `ekfac`."""

    labels: Literal["data", "sampled"] = "data"
    """What the curvature is taken at: the pool's own labels or the proxy's predictions."""


def ekfac_cost(settings: EkfacConfig, workload: Workload) -> EstimatorCost:
    """Second moments and rotated gradients of the sample."""
    layers, size, examples = workload.layers, workload.size, workload.examples
    share = 1 / basis_stride(layers, size)
    # A table's vocabulary is not decomposed.
    sides = [n for la in layers for n in (la.d_in, 0 if la.is_table else la.d_out)]
    weights = [la.d_in * la.d_out for la in layers]
    return EstimatorCost(
        sample_passes=1 + share,
        flops=sum(
            _eigenvalues(la, size, examples) + share * _moments(la, size, examples) for la in layers
        ),
        cubes=float(sum(n**3 for n in sides)),
        held_bytes=8 * 2 * sum(n**2 for n in sides)
        + 8 * sum(weights)
        + 8 * max(1.0, workload.batch_examples) * max(weights),
        dimension=max(sides),
    )


@estimator(
    "ekfac",
    settings=EkfacConfig,
    help="eigenvalue-corrected Kronecker factors at full width",
    cost=ekfac_cost,
    shrinkage=0.3,
)
def ekfac(inputs: "EstimatorInputs", settings: EkfacConfig) -> "dict[str, Tensors]":
    """Directions through the damped inverse of each layer's corrected eigenvalues."""
    from dsdm.datamodel.estimators.ekfac_math import estimate_ekfac

    return estimate_ekfac(inputs, settings)


def basis_stride(layers: Sequence[LayerShape], size: Number) -> int:
    """Every so many examples of a sample hold enough of it for the eigenbases."""
    widest = max(la.d_in if la.is_table else max(la.d_in, la.d_out) for la in layers)
    return max(1, int(size) // (BASIS_SIZE * widest))


def _eigenvalues(layer: LayerShape, size: Number, examples: Number) -> Number:
    """Each example's gradient in the eigenbases: the narrow side position by position."""
    d_in, d_out = layer.d_in, layer.d_out
    if layer.is_table:
        return _turned(layer, size, examples)
    narrow, wide = min(d_in, d_out), max(d_in, d_out)
    return size * (2 * narrow**2 + 2 * d_in * d_out) + examples * 2 * d_in * d_out * wide


def _moments(layer: LayerShape, size: Number, examples: Number) -> Number:
    """Second moments of inputs and of output gradients."""
    if layer.is_table:
        return _turned(layer, size, examples)
    return size * 2 * (layer.d_in**2 + layer.d_out**2)


def _turned(layer: LayerShape, size: Number, examples: Number) -> Number:
    """Each example's gradient of a table times a matrix of its narrow side, or times itself."""
    return formed_flops(layer, size) + examples * 2 * layer.d_out * layer.d_in**2
