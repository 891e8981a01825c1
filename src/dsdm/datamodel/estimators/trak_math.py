"""TRAK as DsDm uses it for language models (Engstrom et al. 2024, section 3; Park et al. 2023).

With features phi(x) = P grad f(x) and their Gram matrix G = Phi^T Phi / n over a sample of the
pool, the averaged datamodel is v = (G + lambda I)^-1 mean phi(z), and the direction P^T v.

Differs from the paper: P is two-sided for each linear layer (LoGra, Choe et al. 2024) instead of
dense, the Gram matrix comes from a sample instead of the whole pool, and it is damped, because a
sample has few examples for each dimension. The damping is relative to the mean of the eigenvalues
that the sample determines, as many as its examples or its dimensions, whichever are fewer: then the
size of the projection, which keeps the trace, does not change it.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.errors import NumericalError
from dsdm.learners.factors import Factors, LayerFactors
from dsdm.learners.layers import Layer
from dsdm.learners.protocol import Examples

Solve = Callable[[Float[Tensor, " dim"]], Float[Tensor, " dim"]]


def estimate_trak(inputs: EstimatorInputs, settings: TrakConfig) -> dict[str, Tensors]:
    """Directions through the damped inverse of the projected gradients' joint Gram matrix."""
    sample, layers = inputs.sample_of(settings.curvature_rows), inputs.layers
    projections = {
        layer.name: make_projection(layer, settings.projection, inputs.seed, inputs.device)
        for layer in layers
    }
    dim = sum(len(left) * len(right) for left, right in projections.values())
    has_fewer_examples = inputs.learner.num(sample) < dim
    make_solve = _solve_by_examples if has_fewer_examples else _solve_by_dimensions
    solve = make_solve(_features(inputs, sample, projections), dim, settings)
    directions = {}
    for target in inputs.targets:
        gradient = inputs.target_gradient(target)
        matrices = {layer.name: layer.to_matrix(gradient) for layer in layers}
        parts = [_project_matrices(m[None], *projections[name]) for name, m in matrices.items()]
        phi = torch.cat(parts, 1)[0]
        directions[target] = _lift(solve(phi.double()).to(phi.dtype), layers, projections)
    return directions


def _features(
    inputs: EstimatorInputs, sample: Examples, projections: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[Float[Tensor, "batch dim"]]:
    """The features of the sample's examples, batch by batch."""
    for factors in inputs.sample_factors(sample):
        yield torch.cat([project(f, *projections[name]) for name, f in factors.items()], 1)


def _solve_by_dimensions(
    features: Iterable[Float[Tensor, "batch dim"]], dim: int, settings: TrakConfig
) -> Solve:
    """The map from phi to (Phi^T Phi / n + lambda I)^-1 phi, through that dim x dim matrix."""
    count, gram = 0, torch.zeros(1, dtype=torch.float64)
    for phi in features:
        gram = gram.to(phi.device) + (phi.T @ phi).double()
        count += len(phi)
    gram /= count
    gram.diagonal().add_(_damping(gram, count, dim, settings))
    factor = _factorized(gram, settings)
    return lambda phi: torch.cholesky_solve(phi[:, None], factor)[:, 0]


def _solve_by_examples(
    features: Iterable[Float[Tensor, "batch dim"]], dim: int, settings: TrakConfig
) -> Solve:
    """The same through a matrix of examples x examples, smaller where dimensions are many.

    (Phi^T Phi / n + lambda I)^-1 = (I - Phi^T (Phi Phi^T / n + lambda I)^-1 Phi / n) / lambda
    """
    if settings.damping == 0:
        raise _not_invertible(dim, settings)
    phis = torch.cat(list(features))
    kernel = (phis @ phis.T).double() / len(phis)
    damping = _damping(kernel, len(phis), dim, settings)
    kernel.diagonal().add_(damping)
    factor = _factorized(kernel, settings)

    def solve(phi: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        weights = torch.cholesky_solve((phis @ phi.to(phis.dtype)).double()[:, None], factor)[:, 0]
        explained = (phis.T @ weights.to(phis.dtype)).double() / len(phis)
        solved: Tensor = (phi - explained) / damping
        return solved

    return solve


def _damping(
    gram: Float[Tensor, "side side"], count: int, dim: int, settings: TrakConfig
) -> Float[Tensor, ""]:
    return settings.damping * gram.diagonal().sum() / min(count, dim)


def _factorized(gram: Tensor, settings: TrakConfig) -> Float[Tensor, "dim dim"]:
    factor: Tensor
    factor, failed_at = torch.linalg.cholesky_ex(gram)
    if failed_at.item() > 0:
        raise _not_invertible(len(gram), settings)
    return factor


def _not_invertible(dim: int, settings: TrakConfig) -> NumericalError:
    return NumericalError(
        f"trak: the {dim:,} projected dimensions can't be inverted from "
        f"{settings.curvature_rows:,} rows at damping {settings.damping:g}. Give more "
        "directions.trak.curvature_rows, a smaller directions.trak.projection, or more damping."
    )


def make_projection(
    layer: Layer, size: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "left d_out"], Float[Tensor, "right d_in"]]:
    """Two Rademacher matrices that keep inner products in expectation.

    A function of the seed, the layer's name and its shape alone. A side narrower than `size` keeps
    its width.
    """
    return (
        _rademacher(min(size, layer.d_out), layer.d_out, f"{seed}/{layer.name}/left").to(device),
        _rademacher(min(size, layer.d_in), layer.d_in, f"{seed}/{layer.name}/right").to(device),
    )


def project(
    factors: Factors,
    left: Float[Tensor, "left d_out"],
    right: Float[Tensor, "right d_in"],
) -> Float[Tensor, "batch left*right"]:
    """Each example's gradient G as the flattened `left @ G @ right.T`, formed only in tables."""
    if not isinstance(factors, LayerFactors):
        formed = (part.gradients() for part in factors.parts())
        return torch.cat([_project_matrices(gradients, left, right) for gradients in formed])
    left = left.to(factors.inputs.dtype)
    right = right.to(factors.inputs.dtype)
    projected_grads = factors.output_grads @ left.T
    projected_inputs = factors.inputs @ right.T
    return (projected_grads.transpose(1, 2) @ projected_inputs).flatten(1)


def _project_matrices(
    gradients: Float[Tensor, "batch d_out d_in"],
    left: Float[Tensor, "left d_out"],
    right: Float[Tensor, "right d_in"],
) -> Float[Tensor, "batch left*right"]:
    return (left.to(gradients.dtype) @ gradients @ right.to(gradients.dtype).T).flatten(1)


def _lift(
    v: Float[Tensor, " dim"], layers: list[Layer], projections: dict[str, tuple[Tensor, Tensor]]
) -> Tensors:
    tensors: Tensors = {}
    start = 0
    for layer in layers:
        left, right = projections[layer.name]
        size = len(left) * len(right)
        block = v[start : start + size].view(len(left), len(right))
        tensors |= layer.from_matrix(left.T.to(v.dtype) @ block @ right.to(v.dtype))
        start += size
    return tensors


def _rademacher(rows: int, columns: int, key: str) -> Tensor:
    if rows == columns:  # a narrow side is kept whole: a square random matrix may be singular
        return torch.eye(columns)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (rows, columns), generator=generator) * 2 - 1
    return signs.float() / math.sqrt(rows)
