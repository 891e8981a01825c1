import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from dsdm.checking.slopes import gradient_norms, row_slopes, scorer_slopes, target_slopes
from dsdm.data.batches import collate
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import exact_scores
from dsdm.evaluation.correlations import pearson
from dsdm.learners.lm_layers import linear_layers, moved_layers
from dsdm.lm.outputs import weighted_outputs
from tests.conftest import ListRows, learner_of, moved_names, random_rows, tiny_model
from tests.oracles import example_gradient

ROWS = random_rows(9)


def linear_names(model: PreTrainedModel) -> list[str]:
    return [name for layer in linear_layers(model) for name in layer.parameter_names]


def random_direction(model: PreTrainedModel, names: list[str], seed: int = 0) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    tensors = {
        name: torch.randn(named[name].shape, generator=generator, dtype=named[name].dtype)
        for name in names
    }
    return Direction(tensors, "ekfac", "mix", "")


@pytest.mark.parametrize("also", [[], ["transformer.wte.weight"], ["transformer.ln_f.weight"]])
def test_slopes_are_exact_whatever_the_directions_move(also: list[str]) -> None:
    model = tiny_model()
    names = [*linear_names(model), *also]
    directions = [random_direction(model, names, seed) for seed in (0, 1)]
    learner = learner_of(model, "loglik")
    expected = [exact_scores(learner, d, ROWS) for d in directions]
    slopes = row_slopes(learner, directions, ROWS)
    np.testing.assert_allclose(slopes, np.stack(expected, 1), rtol=1e-6)


@pytest.mark.parametrize("step", [None, ForwardStep(1e-4, 1.0, "float32")])
def test_the_scorer_agrees_with_the_exact_derivative(step: ForwardStep | None) -> None:
    model = tiny_model()
    direction = random_direction(model, linear_names(model))
    learner = learner_of(model, "loglik")
    scored = scorer_slopes(learner, direction, step, ROWS)
    exact = exact_scores(learner, direction, ROWS)
    np.testing.assert_allclose(scored, exact, rtol=1e-3, atol=1e-3)
    assert pearson(scored, exact) == pytest.approx(1)
    assert pearson(-scored, exact) == pytest.approx(-1)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_slopes_of_targets_are_those_of_what_the_direction_was_made_to_raise(
    model: PreTrainedModel, share: float
) -> None:
    names = linear_names(model)
    direction, named = random_direction(model, names), dict(model.named_parameters())
    examples = ListRows([r for r in random_rows(9, answer_start=3).rows if len(r.tokens) > 3])
    expected = []
    for row in examples.rows:
        output = weighted_outputs(model, collate([row]), "margin", share).sum()
        gradients = torch.autograd.grad(output, [named[name] for name in names])
        pairs = zip(gradients, direction.tensors.values(), strict=True)
        expected.append(sum(float((g * u).sum()) for g, u in pairs))
    found = target_slopes(learner_of(model, context_share=share), direction, examples)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def flat_gradient(model: PreTrainedModel, row) -> tuple[list[str], torch.Tensor]:
    names = moved_names(model)
    gradient = example_gradient(model, row, "loglik", names)
    return names, torch.cat([gradient[name].flatten() for name in names])


@pytest.mark.parametrize("longest", [5, 16])
def test_norms_are_those_of_the_whole_gradient(model: PreTrainedModel, longest: int) -> None:
    # Rows of 16 tokens form the gradient in narrow layers, shorter ones do not.
    rows = random_rows(6, longest)
    expected = [float(flat_gradient(model, row)[1].norm()) for row in rows.rows]
    layers = moved_layers(model, embeddings=True)
    found = gradient_norms(learner_of(model, "loglik"), layers, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
