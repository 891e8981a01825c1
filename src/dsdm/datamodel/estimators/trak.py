"""TRAK as DsDm uses it for language models (Engstrom et al. 2024, section 3; Park et al. 2023).

With features phi(x) = P grad f(x) and their Gram matrix G = Phi^T Phi / n over a sample of the
pool, the averaged datamodel is v = (G + lambda I)^-1 mean phi(z), and the direction P^T v.

Differs from the paper: P is two-sided for each linear layer (LoGra, Choe et al. 2024) instead of
dense, the Gram matrix comes from a sample instead of the whole pool, and it is damped, because a
sample has few rows for each dimension. The damping is relative to the mean of the eigenvalues that
the sample determines, as many as its rows or its dimensions, whichever are fewer: then the size of
the projection, which keeps the trace, does not change it.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.datamodel.config import DirectionsConfig, damping_of
from dsdm.datamodel.estimators.problem import Problem, Tensors
from dsdm.datamodel.gradients import Factors, LayerFactors
from dsdm.datamodel.layers import Layer
from dsdm.errors import NumericalError

Solve = Callable[[Float[Tensor, " dim"]], Float[Tensor, " dim"]]


def estimate_trak(problem: Problem, config: DirectionsConfig) -> dict[str, Tensors]:
    """Directions through the damped inverse of the projected gradients' joint Gram matrix."""
    projections = {
        layer.name: make_projection(layer, config.projection, config.seed, problem.model.device)
        for layer in problem.layers
    }
    dim = sum(len(left) * len(right) for left, right in projections.values())
    has_fewer_rows = len(problem.sample.lengths) < dim
    make_solve = _solve_by_rows if has_fewer_rows else _solve_by_dimensions
    solve = make_solve(_features(problem, config, projections), dim, config)
    directions = {}
    for target in problem.targets:
        gradient = problem.target_gradient(target, config)
        matrices = {layer.name: layer.to_matrix(gradient) for layer in problem.layers}
        parts = [_project_matrices(m[None], *projections[name]) for name, m in matrices.items()]
        phi = torch.cat(parts, 1)[0]
        directions[target] = _lift(solve(phi.double()).to(phi.dtype), problem.layers, projections)
    return directions


def _features(
    problem: Problem, config: DirectionsConfig, projections: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[Float[Tensor, "batch dim"]]:
    """The features of the sample's rows, batch by batch."""
    for factors in problem.sample_factors(config, "data"):
        yield torch.cat([project(f, *projections[name]) for name, f in factors.items()], 1)


def _solve_by_dimensions(
    features: Iterable[Float[Tensor, "batch dim"]], dim: int, config: DirectionsConfig
) -> Solve:
    """The map from phi to (Phi^T Phi / n + lambda I)^-1 phi, through that dim x dim matrix."""
    num_rows, gram = 0, torch.zeros(1, dtype=torch.float64)
    for phi in features:
        gram = gram.to(phi.device) + (phi.T @ phi).double()
        num_rows += len(phi)
    gram /= num_rows
    gram.diagonal().add_(_damping(gram, num_rows, dim, config))
    factor = _factorized(gram, config)
    return lambda phi: torch.cholesky_solve(phi[:, None], factor)[:, 0]


def _solve_by_rows(
    features: Iterable[Float[Tensor, "batch dim"]], dim: int, config: DirectionsConfig
) -> Solve:
    """The same through a matrix of rows x rows, which is smaller where dimensions are many.

    (Phi^T Phi / n + lambda I)^-1 = (I - Phi^T (Phi Phi^T / n + lambda I)^-1 Phi / n) / lambda
    """
    if damping_of(config, "trak") == 0:
        raise _not_invertible(dim, config)
    phis = torch.cat(list(features))
    kernel = (phis @ phis.T).double() / len(phis)
    damping = _damping(kernel, len(phis), dim, config)
    kernel.diagonal().add_(damping)
    factor = _factorized(kernel, config)

    def solve(phi: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        weights = torch.cholesky_solve((phis @ phi.to(phis.dtype)).double()[:, None], factor)[:, 0]
        explained = (phis.T @ weights.to(phis.dtype)).double() / len(phis)
        solved: Tensor = (phi - explained) / damping
        return solved

    return solve


def _damping(
    gram: Float[Tensor, "side side"], num_rows: int, dim: int, config: DirectionsConfig
) -> Float[Tensor, ""]:
    return damping_of(config, "trak") * gram.diagonal().sum() / min(num_rows, dim)


def _factorized(gram: Tensor, config: DirectionsConfig) -> Float[Tensor, "dim dim"]:
    factor: Tensor
    factor, failed_at = torch.linalg.cholesky_ex(gram)
    if failed_at.item() > 0:
        raise _not_invertible(len(gram), config)
    return factor


def _not_invertible(dim: int, config: DirectionsConfig) -> NumericalError:
    return NumericalError(
        f"trak: the {dim:,} projected dimensions can't be inverted from "
        f"{config.curvature_rows:,} rows at damping {damping_of(config, 'trak'):g}. Give more "
        "directions.curvature_rows, a smaller directions.projection, or more damping."
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
