"""What estimators compute of the pool's sample: one count, for forecasts and for what a run took.

To add an estimator that looks at the sample, add what it multiplies to `curvature_flops`.
"""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from dsdm.datamodel.config import DirectionsConfig

Number = int | float
FACTOR_PASSES = 2.0
"""Forward passes that a row's gradient factors take: there is no gradient in any weight."""
BASIS_TOKENS = 256
"""Tokens for each dimension of the widest layer that EK-FAC's eigenbases are taken from: George et
al. renew them less often than the eigenvalues, which decide more."""


@runtime_checkable
class LayerShape(Protocol):
    """What a layer's costs depend on."""

    @property
    def d_in(self) -> int:
        """Inputs."""

    @property
    def d_out(self) -> int:
        """Outputs, or the vocabulary."""

    @property
    def is_table(self) -> bool:
        """Whether it is a table of the vocabulary."""

    @property
    def is_head(self) -> bool:
        """Whether logits are made by it."""


def basis_stride(layers: Collection[LayerShape], tokens: Number) -> int:
    """Every so many rows of a sample hold enough of its tokens for EK-FAC's eigenbases."""
    widest = max(la.d_in if la.is_table else max(la.d_in, la.d_out) for la in layers)
    return max(1, int(tokens) // (BASIS_TOKENS * widest))


def sample_passes(method: str, layers: Collection[LayerShape], tokens: Number) -> Number:
    """How often an estimator reads its sample of the pool; EK-FAC a part of it once more."""
    if method == "ekfac":
        return 1 + 1 / basis_stride(layers, tokens)
    return 1 if method == "trak" else 0


def curvature_flops(
    method: str,
    layers: Collection[LayerShape],
    config: DirectionsConfig,
    *,
    tokens: Number,
    rows: Number,
) -> Number:
    """FLOPs of an estimator's products of gradient factors, beside its passes over the sample.

    Decompositions and solving are not in it.

    Args:
        method: The estimator.
        layers: Those that directions move.
        config: How wide projections are.
        tokens: In the sample.
        rows: In the sample.
    """
    if method == "ekfac":
        share = 1 / basis_stride(layers, tokens)
        return sum(
            _eigenvalues(one, tokens, rows) + share * _moments(one, tokens, rows) for one in layers
        )
    if method == "trak":
        sides = [_projected(one, config.projection) for one in layers]
        dim = sum(left * right for left, right in sides)
        features = sum(
            _features(one, *side, tokens, rows) for one, side in zip(layers, sides, strict=True)
        )
        # The Gram matrix of rows or of dimensions, whichever are fewer.
        return features + 2 * rows * dim * min(dim, rows)
    return 0.0


def _eigenvalues(layer: LayerShape, tokens: Number, rows: Number) -> Number:
    """Each row's gradient in the eigenbases: the narrow side token by token."""
    d_in, d_out = layer.d_in, layer.d_out
    if layer.is_table:
        return _turned(layer, tokens, rows)
    narrow, wide = min(d_in, d_out), max(d_in, d_out)
    return tokens * (2 * narrow**2 + 2 * d_in * d_out) + rows * 2 * d_in * d_out * wide


def _moments(layer: LayerShape, tokens: Number, rows: Number) -> Number:
    """Second moments of inputs and of output gradients."""
    if layer.is_table:
        return _turned(layer, tokens, rows)
    return tokens * 2 * (layer.d_in**2 + layer.d_out**2)


def _features(layer: LayerShape, left: int, right: int, tokens: Number, rows: Number) -> Number:
    """Each row's gradient between two projections."""
    d_in, d_out = layer.d_in, layer.d_out
    if layer.is_table:
        return _formed(layer, tokens) + rows * 2 * left * d_in * (d_out + right)
    return tokens * 2 * (left * d_out + right * d_in + left * right)


def _turned(layer: LayerShape, tokens: Number, rows: Number) -> Number:
    """Each row's gradient of a table times a matrix of its narrow side, or times itself."""
    return _formed(layer, tokens) + rows * 2 * layer.d_out * layer.d_in**2


def _formed(layer: LayerShape, tokens: Number) -> Number:
    """The gradient of a table: of the output layer, by logits that are made again."""
    return tokens * 4 * layer.d_in * layer.d_out if layer.is_head else 0.0


def _projected(layer: LayerShape, size: int) -> tuple[int, int]:
    return min(size, layer.d_out), min(size, layer.d_in)
