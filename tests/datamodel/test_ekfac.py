"""EK-FAC against a dense construction, and against the exact Fisher where it should be exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import ekfac, ekfac_math
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.datamodel.estimators.ekfac_math import estimate_ekfac
from dsdm.datamodel.estimators.gradient import gradient as estimate_gradient
from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors
from dsdm.datamodel.estimators.registry import NoSettings
from dsdm.datamodel.scoring import score_backward
from dsdm.learners.factors import LayerFactors
from dsdm.learners.layers import Layer
from dsdm.learners.lm_layers import linear_layers, tables
from dsdm.lm.config import Output
from tests.conftest import ListRows, learner_of, random_rows, tiny_model, with_unused_layer
from tests.oracles import (
    assert_same,
    dense_ekfac,
    dense_fisher_solve,
    layer_gradients,
    token_factors,
)

POOL = random_rows(60, seed=1)
TARGETS = {
    "one": random_rows(5, seed=3, answer_start=2),
    "two": random_rows(4, seed=4, answer_start=3),
}


def inputs_of(
    model: PreTrainedModel, output: Output = "margin", **settings: Any
) -> EstimatorInputs:
    return EstimatorInputs(learner_of(model, output, **settings), TARGETS, POOL)


@pytest.mark.parametrize("output", ["margin", "loglik"])
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_directions_are_those_of_a_dense_solve(
    model: PreTrainedModel, output: Output, damping: float
) -> None:
    inputs = inputs_of(model, output)
    estimated = estimate_ekfac(inputs, EkfacConfig(damping=damping))
    layers = [inputs.layers[0], linear_layers(model)[-1], *tables(model)]
    gradients = layer_gradients(model, layers, POOL.rows, output)
    targets = {n: layer_gradients(model, layers, r.rows, output) for n, r in TARGETS.items()}
    for layer in layers:
        bases = pool_bases(model, layer, gradients[layer.name], output)
        for name in TARGETS:
            target = targets[name][layer.name].mean(0)
            expected = dense_ekfac(*bases, gradients[layer.name], target, damping)
            ours = layer.to_matrix(estimated[name])
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7 * expected.norm())


def pool_bases(
    model: PreTrainedModel, layer: Layer, gradients: Tensor, output: Output
) -> tuple[Tensor, Tensor]:
    """Vectors whose second moments have the bases of the two sides as eigenvectors."""
    if layer.is_table:  # the entries' gradients, and for the entries themselves no rotation
        apart = torch.diag(torch.arange(1.0, layer.d_out + 1, dtype=torch.float64))
        return gradients.flatten(0, 1), apart
    (module,) = layer.modules
    pairs = [token_factors(model, module, row, output) for row in POOL.rows]
    inputs, grads = (torch.cat(side) for side in zip(*pairs, strict=True))
    if layer.bias_name is not None:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    return inputs, grads


def test_scores_are_the_bilinear_form_of_the_curvature() -> None:
    model = tiny_model("llama")
    inputs, candidates = inputs_of(model), random_rows(6, seed=2)
    estimated = estimate_ekfac(inputs, EkfacConfig())
    direction = Direction(estimated["one"], "ekfac", "one", "p")
    ours = score_backward(inputs.learner, [direction], candidates)[:, 0]
    pool, target, found = (
        layer_gradients(model, inputs.layers, rows.rows, "margin")
        for rows in (POOL, TARGETS["one"], candidates)
    )
    expected = torch.zeros(6, dtype=torch.float64)
    for layer in inputs.layers:
        bases = pool_bases(model, layer, pool[layer.name], "margin")
        solved = dense_ekfac(*bases, pool[layer.name], target[layer.name].mean(0), 0.1)
        expected += (found[layer.name] * solved).sum((1, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class GivenFactors(EstimatorInputs):
    """Inputs whose sample and target are written down."""

    layer: Layer | None = None
    factors: LayerFactors | None = None
    target: Tensor | None = None

    @property
    def layers(self) -> list[Layer]:
        return [self.layer]

    def target_gradient(self, target: str) -> Tensors:
        return self.layer.from_matrix(self.target)

    def sample_factors(
        self, sample: Any, labels: str = "data", every: int = 1
    ) -> Iterator[dict[str, LayerFactors]]:
        assert every == 1
        half = len(self.factors.inputs) // 2
        for part in (slice(0, half), slice(half, None)):
            inputs, grads = self.factors.inputs[part], self.factors.output_grads[part]
            present = self.factors.present[part]
            yield {self.layer.name: LayerFactors(inputs, grads, present)}


def given_inputs(inputs: Tensor, grads: Tensor, target: Tensor) -> GivenFactors:
    model = tiny_model("llama")
    layer = linear_layers(model)[0]
    assert target.shape == (layer.d_out, layer.d_in)
    factors = LayerFactors(inputs, grads, (grads != 0).any(2))
    sample = random_rows(len(inputs))
    return GivenFactors(
        learner_of(model), {"t": POOL}, sample, layer=layer, factors=factors, target=target
    )


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("damping", [0.1, 1e-4])
def test_where_the_fisher_is_a_kronecker_product_the_solve_is_exact(damping: float) -> None:
    # One token each, and every input with every output gradient: E[vec vec^T] = S (x) A.
    x, g = randn(11, 8, seed=1), randn(13, 8, seed=2) @ torch.diag(torch.arange(1.0, 9).double())
    inputs = x.repeat_interleave(13, 0)[:, None]
    grads = g.repeat(11, 1)[:, None]
    target = randn(8, 8, seed=3)
    given = given_inputs(inputs, grads, target)
    ours = estimate_ekfac(given, EkfacConfig(damping=damping))["t"][given.layers[0].name]
    gradients = grads.transpose(1, 2) @ inputs
    expected = dense_fisher_solve(gradients, target, damping)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_corrected_eigenvalues_are_better_than_the_product_of_the_factors() -> None:
    """Tokens that depend on each other: plain K-FAC's eigenvalues would be wrong."""
    x = randn(40, 3, 8, seed=1)
    grads = torch.tanh(x @ randn(8, 8, seed=2)) * x[:, :1, :1]
    target = randn(8, 8, seed=3)
    given = given_inputs(x, grads, target)
    ours = estimate_ekfac(given, EkfacConfig())["t"][given.layers[0].name]
    gradients = grads.transpose(1, 2) @ x
    exact = dense_fisher_solve(gradients, target, 0.1)
    kfac = kfac_solve(x.flatten(0, 1), grads.flatten(0, 1), target)

    def similarity(tensor: Tensor) -> float:
        return torch.cosine_similarity(tensor.flatten(), exact.flatten(), dim=0).item()

    assert similarity(ours) > similarity(kfac)


def kfac_solve(x: Tensor, g: Tensor, target: Tensor) -> Tensor:
    curvature = torch.kron(g.T @ g / len(g), x.T @ x / len(x))
    damped = curvature + 0.1 * curvature.diagonal().mean() * torch.eye(64, dtype=x.dtype)
    return torch.linalg.solve(damped, target.flatten()).view(8, 8)


def test_padding_changes_no_direction() -> None:
    x, grads, target = randn(10, 4, 8, seed=1), randn(10, 4, 8, seed=2), randn(8, 8, seed=3)
    padded = torch.cat([x, 100 + randn(10, 3, 8, seed=4)], 1)
    no_grads = torch.cat([grads, torch.zeros(10, 3, 8, dtype=torch.float64)], 1)
    one, other = (
        estimate_ekfac(given_inputs(*given, target), EkfacConfig())["t"]
        for given in ((x, grads), (padded, no_grads))
    )
    assert_same(one, other)


def test_batches_of_the_sample_change_nothing() -> None:
    model = tiny_model()
    one, many = (
        estimate_ekfac(inputs_of(model, batch_tokens=tokens), EkfacConfig())
        for tokens in (1, 10_000)
    )
    for name in TARGETS:
        for parameter, tensor in one[name].items():
            scale = 1e-7 * tensor.norm().item()
            torch.testing.assert_close(many[name][parameter], tensor, rtol=1e-6, atol=scale)


def test_a_large_sample_gives_its_eigenbases_by_a_part_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    inputs, settings = inputs_of(model), EkfacConfig()
    widest = max(max(layer.d_in, layer.d_out) for layer in linear_layers(model))
    # Three times as many tokens as are asked for.
    monkeypatch.setattr(ekfac, "BASIS_SIZE", int(sum(POOL.lengths) / (3.2 * widest)))
    bases = ekfac_math._eigenbases(inputs, settings, POOL)
    monkeypatch.setattr(ekfac, "BASIS_SIZE", 10**9)
    expected = ekfac_math._eigenbases(inputs, settings, ListRows(POOL.rows[::3]))
    for name, basis in bases.items():
        torch.testing.assert_close(basis.input.abs(), expected[name].input.abs())
        if basis.output is not None:
            torch.testing.assert_close(basis.output.abs(), expected[name].output.abs())


def test_heavy_damping_leaves_each_layers_gradient(model: PreTrainedModel) -> None:
    inputs = inputs_of(model)
    gradient = estimate_gradient(inputs, NoSettings())
    estimated = estimate_ekfac(inputs, EkfacConfig(damping=1e9))
    samples = layer_gradients(model, inputs.layers, POOL.rows, "margin")
    for layer in inputs.layers:
        # The damping is relative to the mean eigenvalue, the mean squared entry of a gradient.
        damping = 1e9 * samples[layer.name].square().mean(0).mean()
        for name in TARGETS:
            ours, plain = (layer.to_matrix(e[name]) for e in (estimated, gradient))
            torch.testing.assert_close(ours * damping, plain, rtol=1e-5, atol=1e-7 * plain.norm())


def test_sampled_labels_change_the_curvature_and_only_it() -> None:
    inputs = inputs_of(tiny_model())
    data, sampled, again = (
        estimate_ekfac(inputs, EkfacConfig(labels=labels))
        for labels in ("data", "sampled", "sampled")
    )
    name = inputs.layers[0].name
    assert not torch.allclose(data["one"][name], sampled["one"][name])
    assert_same(sampled["one"], again["one"])


def test_a_layer_that_is_never_used_is_not_moved() -> None:
    inputs = inputs_of(with_unused_layer(tiny_model()))
    found = estimate_ekfac(inputs, EkfacConfig())["one"]
    expected = estimate_ekfac(inputs_of(tiny_model()), EkfacConfig())["one"]
    unused = [name for name in found if "unused" in name]
    assert len(unused) == 2
    assert not any(found[name].any() for name in unused)
    assert_same({name: found[name] for name in expected}, expected)
