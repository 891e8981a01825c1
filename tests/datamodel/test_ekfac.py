"""EK-FAC against a dense construction, and against the exact Fisher where it should be exact."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.datamodel import curvature_costs
from dsdm.datamodel.config import DirectionsConfig, Labels, ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.estimators import Problem, Tensors, ekfac, estimate_ekfac, estimate_gradient
from dsdm.datamodel.gradients import LayerFactors
from dsdm.datamodel.layers import Layer, linear_layers, moved_layers, tables
from dsdm.datamodel.scoring import score_backward
from dsdm.lm.config import Output
from tests.conftest import ListRows, random_rows, tiny_model
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


def configure(damping: float = 0.1, output: Output = "margin") -> DirectionsConfig:
    return DirectionsConfig(damping=damping, output=output, context_share=0.0, batch_tokens=50)


def make_problem(model: PreTrainedModel) -> Problem:
    return Problem(model, moved_layers(model, embeddings=True), TARGETS, POOL)


@pytest.mark.parametrize("output", ["margin", "loglik"])
@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_directions_are_those_of_a_dense_solve(
    model: PreTrainedModel, output: Output, damping: float
) -> None:
    problem, config = make_problem(model), configure(damping, output)
    estimated = estimate_ekfac(problem, config)
    layers = [problem.layers[0], linear_layers(model)[-1], *tables(model)]
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
    model, config = tiny_model("llama"), configure()
    problem, candidates = make_problem(model), random_rows(6, seed=2)
    estimated = estimate_ekfac(problem, config)
    direction = Direction(estimated["one"], "ekfac", "one", "p")
    scores = ScoresConfig(precision="float32", batch_tokens=50)
    ours = score_backward(model, [direction], candidates, "margin", scores)[:, 0]
    pool, target, found = (
        layer_gradients(model, problem.layers, rows.rows, "margin")
        for rows in (POOL, TARGETS["one"], candidates)
    )
    expected = torch.zeros(6, dtype=torch.float64)
    for layer in problem.layers:
        bases = pool_bases(model, layer, pool[layer.name], "margin")
        solved = dense_ekfac(*bases, pool[layer.name], target[layer.name].mean(0), 0.1)
        expected += (found[layer.name] * solved).sum((1, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class GivenFactors(Problem):
    """A problem whose sample and target are written down."""

    factors: LayerFactors | None = None
    target: Tensor | None = None

    def target_gradient(self, target: str, config: DirectionsConfig) -> Tensors:
        return self.layers[0].from_matrix(self.target)

    def sample_factors(
        self, config: DirectionsConfig, labels: Labels, every: int = 1
    ) -> Iterator[dict[str, LayerFactors]]:
        assert every == 1
        half = len(self.factors.inputs) // 2
        for part in (slice(0, half), slice(half, None)):
            inputs, grads = self.factors.inputs[part], self.factors.output_grads[part]
            present = self.factors.present[part]
            yield {self.layers[0].name: LayerFactors(inputs, grads, present)}


def given_problem(inputs: Tensor, grads: Tensor, target: Tensor) -> GivenFactors:
    model = tiny_model("llama")
    layer = linear_layers(model)[0]
    assert target.shape == (layer.d_out, layer.d_in)
    factors = LayerFactors(inputs, grads, (grads != 0).any(2))
    return GivenFactors(model, [layer], {"t": POOL}, POOL, factors=factors, target=target)


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
    problem = given_problem(inputs, grads, target)
    ours = estimate_ekfac(problem, configure(damping))["t"][problem.layers[0].name]
    gradients = grads.transpose(1, 2) @ inputs
    expected = dense_fisher_solve(gradients, target, damping)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_corrected_eigenvalues_are_better_than_the_product_of_the_factors() -> None:
    """Tokens that depend on each other: plain K-FAC's eigenvalues would be wrong."""
    x = randn(40, 3, 8, seed=1)
    grads = torch.tanh(x @ randn(8, 8, seed=2)) * x[:, :1, :1]
    target = randn(8, 8, seed=3)
    problem = given_problem(x, grads, target)
    ours = estimate_ekfac(problem, configure(0.1))["t"][problem.layers[0].name]
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
        estimate_ekfac(given_problem(*given, target), configure())["t"]
        for given in ((x, grads), (padded, no_grads))
    )
    assert_same(one, other)


def test_batches_of_the_sample_change_nothing() -> None:
    model = tiny_model()
    one, many = (
        estimate_ekfac(make_problem(model), DirectionsConfig(batch_tokens=tokens))
        for tokens in (1, 10_000)
    )
    for name in TARGETS:
        for parameter, tensor in one[name].items():
            scale = 1e-7 * tensor.norm().item()
            torch.testing.assert_close(many[name][parameter], tensor, rtol=1e-6, atol=scale)


def test_a_large_sample_gives_its_eigenbases_by_a_part_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, config = tiny_model(), configure()
    problem = make_problem(model)
    widest = max(max(layer.d_in, layer.d_out) for layer in linear_layers(model))
    # Three times as many tokens as are asked for.
    monkeypatch.setattr(curvature_costs, "BASIS_TOKENS", int(sum(POOL.lengths) / (3.2 * widest)))
    bases = ekfac._eigenbases(problem, config)
    third = Problem(model, problem.layers, TARGETS, ListRows(POOL.rows[::3]))
    monkeypatch.setattr(curvature_costs, "BASIS_TOKENS", 10**9)
    expected = ekfac._eigenbases(third, config)
    for name, basis in bases.items():
        torch.testing.assert_close(basis.input.abs(), expected[name].input.abs())
        if basis.output is not None:
            torch.testing.assert_close(basis.output.abs(), expected[name].output.abs())


def test_heavy_damping_leaves_each_layers_gradient(model: PreTrainedModel) -> None:
    problem = make_problem(model)
    gradient = estimate_gradient(problem, configure())
    estimated = estimate_ekfac(problem, configure(1e9))
    samples = layer_gradients(model, problem.layers, POOL.rows, "margin")
    for layer in problem.layers:
        # The damping is relative to the mean eigenvalue, the mean squared entry of a gradient.
        damping = 1e9 * samples[layer.name].square().mean(0).mean()
        for name in TARGETS:
            ours, plain = (layer.to_matrix(e[name]) for e in (estimated, gradient))
            torch.testing.assert_close(ours * damping, plain, rtol=1e-5, atol=1e-7 * plain.norm())


def test_sampled_labels_change_the_curvature_and_only_it() -> None:
    problem = make_problem(tiny_model())
    data, sampled, again = (
        estimate_ekfac(problem, DirectionsConfig(labels=labels, batch_tokens=50))
        for labels in ("data", "sampled", "sampled")
    )
    name = problem.layers[0].name
    assert not torch.allclose(data["one"][name], sampled["one"][name])
    assert_same(sampled["one"], again["one"])
