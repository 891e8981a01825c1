"""TRAK through one direction against the textbook formula over explicit features."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsdm.data.batches import Row, collate
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import trak_math
from dsdm.datamodel.estimators.gradient import gradient as estimate_gradient
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.estimators.registry import NoSettings
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.datamodel.estimators.trak_math import estimate_trak, make_projection, project
from dsdm.datamodel.scoring import score_backward
from dsdm.errors import NumericalError
from dsdm.learners.layers import Layer
from dsdm.learners.lm_factors import factors_of
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.config import Output
from tests.conftest import learner_of, random_rows, tiny_model
from tests.oracles import assert_same, layer_gradients, loop_gradient, textbook_trak

POOL = random_rows(60, seed=1)
CANDIDATES = random_rows(8, seed=2)
TARGETS = {
    "one": random_rows(5, seed=3, answer_start=2),
    "two": random_rows(4, seed=4, answer_start=3),
}
SETTINGS = TrakConfig(projection=3, damping=0.1)
SEED = 5


def inputs_of(
    model: PreTrainedModel, output: Output = "margin", **settings: Any
) -> EstimatorInputs:
    return EstimatorInputs(learner_of(model, output, **settings), TARGETS, POOL, seed=SEED)


def explicit_features(
    model: PreTrainedModel, rows: list[Row], output: Output = "margin", projection: int = 3
) -> Tensor:
    """phi(x) = P vec(grad f(x)) with every layer's P as the dense matrix left (x) right."""
    blocks, layers = [], moved_layers(model, embeddings=True)
    gradients = layer_gradients(model, layers, rows, output)
    for layer in layers:
        left, right = make_projection(layer, projection, SEED)
        dense = torch.kron(left.double(), right.double())
        blocks.append(gradients[layer.name].flatten(1) @ dense.T)
    return torch.cat(blocks, 1)


@pytest.mark.parametrize("output", ["margin", "loglik"])
def test_scores_through_directions_are_the_textbook_scores(
    model: PreTrainedModel, output: Output
) -> None:
    inputs = inputs_of(model, output)
    estimated = estimate_trak(inputs, SETTINGS)
    pool, candidates = (explicit_features(model, r.rows, output) for r in (POOL, CANDIDATES))
    assert len(pool) < pool.shape[1]  # fewer rows than dimensions: the damping matters
    for name, rows in TARGETS.items():
        direction = Direction(estimated[name], "trak", name, "p")
        ours = score_backward(inputs.learner, [direction], CANDIDATES)[:, 0]
        targets = explicit_features(model, rows.rows, output)
        expected = textbook_trak(pool, candidates, targets, 0.1)
        np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("projection", [1, 2, 3])
def test_solving_by_rows_is_solving_by_dimensions(projection: int) -> None:
    phis = explicit_features(tiny_model(), POOL.rows, projection=projection)
    dim = phis.shape[1]
    phi = torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solved = [
        make_solve(iter(phis.split(7)), dim, SETTINGS)(phi)
        for make_solve in (trak_math._solve_by_examples, trak_math._solve_by_dimensions)
    ]
    torch.testing.assert_close(*solved, rtol=1e-9, atol=1e-9)


def test_scores_are_means_over_target_examples_of_single_scores() -> None:
    model = tiny_model()
    inputs = inputs_of(model)
    direction = Direction(estimate_trak(inputs, SETTINGS)["one"], "trak", "one", "p")
    ours = score_backward(inputs.learner, [direction], CANDIDATES)[:, 0]
    pool, candidates = (explicit_features(model, r.rows) for r in (POOL, CANDIDATES))
    single = [
        textbook_trak(pool, candidates, explicit_features(model, [row]), 0.1)
        for row in TARGETS["one"].rows
    ]
    np.testing.assert_allclose(ours, torch.stack(single).mean(0), rtol=1e-7, atol=1e-9)


def test_a_candidate_that_is_the_target_has_a_positive_score() -> None:
    inputs = inputs_of(tiny_model())
    direction = Direction(estimate_trak(inputs, SETTINGS)["one"], "trak", "one", "p")
    assert score_backward(inputs.learner, [direction], TARGETS["one"]).mean() > 0


def test_batches_of_the_sample_change_nothing() -> None:
    model = tiny_model()
    one, many = (
        estimate_trak(inputs_of(model, batch_tokens=tokens), SETTINGS) for tokens in (1, 10_000)
    )
    for name in TARGETS:
        assert_same(one[name], many[name])


def test_factored_projection_is_the_explicit_one(model: PreTrainedModel) -> None:
    layers, rows = moved_layers(model, embeddings=True), CANDIDATES.rows
    factors = factors_of(model, layers, collate(rows), "margin")
    all_gradients = layer_gradients(model, layers, rows, "margin")
    for layer in layers:
        left, right = make_projection(layer, 3, seed=0)
        gradients = all_gradients[layer.name]
        expected = torch.stack([left.double() @ g @ right.double().T for g in gradients])
        ours = project(factors[layer.name], left, right)
        torch.testing.assert_close(ours, expected.flatten(1), rtol=1e-9, atol=1e-12)


def bare_layer(name: str = "layer.weight", d_out: int = 6, d_in: int = 9) -> Layer:
    return Layer(name, None, (nn.Linear(d_in, d_out),), d_in, d_out, transposed=False)


def test_too_few_rows_without_damping_are_an_error_that_says_what_to_do() -> None:
    settings = TrakConfig(projection=4, damping=0.0, curvature_rows=2)
    with pytest.raises(NumericalError, match="more damping"):
        estimate_trak(inputs_of(tiny_model()), settings)


@pytest.mark.parametrize("size", [2, 4])
def test_projection_keeps_inner_products_in_expectation(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, generator=generator)
    y = x + torch.randn(6, 9, generator=generator)
    products = []
    for seed in range(2000):
        left, right = make_projection(bare_layer(), size, seed)
        products.append(((left @ x @ right.T) * (left @ y @ right.T)).sum())
    found = torch.stack(products)
    standard_error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - (x * y).sum()) < 4 * standard_error
    assert standard_error < 0.1 * (x * y).sum()


def test_a_side_no_wider_than_the_projection_is_kept_whole() -> None:
    left, right = make_projection(bare_layer(), 16, seed=0)
    assert torch.equal(left, torch.eye(6))
    assert torch.equal(right, torch.eye(9))


def test_projection_is_a_function_of_seed_name_and_shape_alone() -> None:
    def flat(layer: Layer, size: int = 3, seed: int = 0) -> list[float]:
        left, right = make_projection(layer, size, seed)
        return [*left.flatten().tolist(), *right.flatten().tolist()]

    base = flat(bare_layer())
    torch.manual_seed(99)
    torch.rand(3)
    layer, state = bare_layer(), torch.get_rng_state()
    assert flat(layer) == base
    assert torch.equal(torch.get_rng_state(), state)
    assert flat(replace(bare_layer(), modules=(), transposed=True)) == base
    assert flat(bare_layer(), seed=1) != base
    assert flat(bare_layer("other.weight")) != base
    assert len(flat(bare_layer(d_in=8))) < len(base)


def test_projection_of_a_name_and_seed_stays_what_it_is() -> None:
    left, right = make_projection(bare_layer(), 2, seed=0)
    signs = ["".join("+-"[int(value < 0)] for value in row) for row in [*left, *right]]
    assert signs == ["+++--+", "--++--", "-++++---+", "+--++----"]
    assert left.abs().unique().item() == pytest.approx(2**-0.5)


def test_two_sides_and_two_layers_have_their_own_signs() -> None:
    left, right = make_projection(bare_layer(d_out=9), 4, seed=0)
    other, _ = make_projection(bare_layer("other.weight", d_out=9), 4, seed=0)
    assert not torch.equal(left, right)
    assert not torch.equal(left, other)
    assert left.abs().unique().item() == pytest.approx(1 / 2)


def test_a_layer_narrower_than_the_projection_is_projected_to_its_own_width() -> None:
    left, right = make_projection(bare_layer(d_out=6, d_in=40), 16, seed=0)
    assert (left.shape, right.shape) == ((6, 6), (16, 40))


def test_directions_of_gradient_are_the_targets_mean_gradients() -> None:
    model = tiny_model()
    estimated = estimate_gradient(inputs_of(model), NoSettings())
    for name, rows in TARGETS.items():
        names = [n for layer in moved_layers(model, embeddings=True) for n in layer.parameter_names]
        assert_same(estimated[name], loop_gradient(model, rows.rows, "margin", names))
