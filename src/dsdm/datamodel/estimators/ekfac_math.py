"""EK-FAC: eigenvalue-corrected Kronecker factors at full width.

George et al. 2018 (arXiv:1806.03884); for language models Grosse et al. 2023 (arXiv:2308.03296).

For each layer, A = E[x x^T] over its inputs and S = E[g g^T] over its output gradients have
eigenbases Q_A and Q_S. The curvature is taken as diagonal in Q_S (x) Q_A, with the exact second
moments of the examples' gradients on its diagonal: L = E[(Q_S^T G Q_A)^2], where G sums over the
positions of one example. The direction is Q_S [(Q_S^T G_target Q_A) / (L + lambda)] Q_A^T.

In a table of a vocabulary Q_S is the identity, since an example's gradient is nearly apart for each
entry and a basis as wide as the vocabulary would be dear; Q_A is the eigenbasis of E[G^T G].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.datamodel.estimators.ekfac import EkfacConfig, basis_stride
from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors
from dsdm.learners.factors import Factors, LayerFactors
from dsdm.learners.layers import Layer
from dsdm.learners.protocol import Examples


@dataclass(frozen=True)
class Eigenbasis:
    """Orthonormal columns for the two sides of a layer's gradient."""

    output: Float[Tensor, "d_out d_out"] | None
    """None: the identity."""
    input: Float[Tensor, "d_in d_in"]

    def rotate(self, matrix: Float[Tensor, "*batch d_out d_in"]) -> Tensor:
        """The matrix in this basis."""
        rotated = matrix @ self.input
        return rotated if self.output is None else self.output.T @ rotated

    def rotate_back(self, matrix: Float[Tensor, "d_out d_in"]) -> Tensor:
        """The inverse of `rotate`."""
        rotated = matrix @ self.input.T
        return rotated if self.output is None else self.output @ rotated


def estimate_ekfac(inputs: EstimatorInputs, settings: EkfacConfig) -> dict[str, Tensors]:
    """Directions through the damped inverse of each layer's corrected eigenvalues.

    The damping is relative to the layer's own mean eigenvalue. A layer whose gradients are all 0,
    as one that is never used, is not moved.
    """
    sample = inputs.sample_of(settings.curvature_rows)
    bases = _eigenbases(inputs, settings, sample)
    eigenvalues = _corrected_eigenvalues(inputs, settings, sample, bases)
    directions = {}
    for target in inputs.targets:
        gradient = inputs.target_gradient(target)
        tensors: Tensors = {}
        for layer in inputs.layers:
            values = eigenvalues[layer.name]
            rotated = bases[layer.name].rotate(layer.to_matrix(gradient))
            solved = rotated.double()
            if solved.any() or values.any():
                solved = solved / (values + settings.damping * values.mean())
            tensors |= layer.from_matrix(bases[layer.name].rotate_back(solved.to(rotated.dtype)))
        directions[target] = tensors
    return directions


def _eigenbases(
    inputs: EstimatorInputs, settings: EkfacConfig, sample: Examples
) -> dict[str, Eigenbasis]:
    layers, device = inputs.layers, inputs.device
    read = {la.name: _zeros(la.d_in, la.d_in, device) for la in layers}
    grads = {la.name: _zeros(la.d_out, la.d_out, device) for la in layers if not la.is_table}
    stride = basis_stride(layers, int(inputs.learner.sizes(sample).sum()))
    for factors in inputs.sample_factors(sample, settings.labels, every=stride):
        for name, one in factors.items():
            if isinstance(one, LayerFactors):
                g = one.output_grads.flatten(0, 1)
                x = one.inputs.flatten(0, 1) * one.present.flatten()[:, None]
                grads[name] += (g.T @ g).double()
                read[name] += (x.T @ x).double()
                continue
            for part in one.parts():
                entries = part.gradients().flatten(0, 1)
                read[name] += (entries.T @ entries).double()
    return {
        layer.name: Eigenbasis(
            None if layer.is_table else _eigenvectors(grads[layer.name], layer),
            _eigenvectors(read[layer.name], layer),
        )
        for layer in layers
    }


def _corrected_eigenvalues(
    inputs: EstimatorInputs,
    settings: EkfacConfig,
    sample: Examples,
    bases: dict[str, Eigenbasis],
) -> dict[str, Float[Tensor, "d_out d_in"]]:
    sums = {la.name: _zeros(la.d_out, la.d_in, inputs.device) for la in inputs.layers}
    count = inputs.learner.num(sample)
    for factors in inputs.sample_factors(sample, settings.labels):
        for name, one in factors.items():
            for part in one.parts():
                sums[name] += _rotated_gradients(part, bases[name]).square().sum(0).double()
    return {name: total / count for name, total in sums.items()}


def _rotated_gradients(factors: Factors, basis: Eigenbasis) -> Float[Tensor, "batch d_out d_in"]:
    """Each example's gradient in the basis.

    The narrow side is rotated position by position, the wide one once the gradient is formed.
    """
    if basis.output is None or not isinstance(factors, LayerFactors):
        return basis.rotate(factors.gradients())
    if len(basis.output) <= len(basis.input):
        rotated = factors.output_grads @ basis.output
        return (rotated.transpose(1, 2) @ factors.inputs) @ basis.input
    rotated = factors.inputs @ basis.input
    return basis.output.T @ (factors.output_grads.transpose(1, 2) @ rotated)


def _eigenvectors(moments: Float[Tensor, "side side"], layer: Layer) -> Tensor:
    scaled = moments / moments.diagonal().mean().clamp(min=1e-300)
    vectors: Tensor = torch.linalg.eigh(scaled).eigenvectors.to(layer.modules[0].weight.dtype)
    return vectors


def _zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64, device=device)
