import numpy as np
import pytest
import torch
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.layers import linear_layers
from transformers import PreTrainedModel

from dsdm.data.batches import collate
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.config import DirectionsConfig, ScoresConfig
from dsdm.datamodel.scoring import exact_scores
from dsdm.lm.outputs import weighted_outputs
from dsdm.trust.slopes import (
    correlation,
    row_slopes,
    scored_direction,
    scorer_slopes,
    target_slopes,
)
from tests.conftest import ListRows, random_rows, tiny_model

ROWS = random_rows(9)
CONFIG = ScoresConfig(batch_tokens=32, precision="float32")


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
    expected = [exact_scores(model, d, ROWS, "loglik", 32) for d in directions]
    slopes = row_slopes(model, directions, ROWS, "loglik", CONFIG)
    np.testing.assert_allclose(slopes, np.stack(expected, 1), rtol=1e-6)


@pytest.mark.parametrize("step", [None, ForwardStep(1e-4, 1.0)])
def test_the_scorer_agrees_with_the_exact_derivative(step: ForwardStep | None) -> None:
    model = tiny_model()
    direction = random_direction(model, linear_names(model))
    scored = scorer_slopes(model, direction, step, ROWS, "loglik", CONFIG)
    exact = exact_scores(model, direction, ROWS, "loglik", 32)
    np.testing.assert_allclose(scored, exact, rtol=1e-3, atol=1e-3)
    assert correlation(scored, exact) == pytest.approx(1)
    assert correlation(-scored, exact) == pytest.approx(-1)


def test_what_the_run_scores_by_itself_is_looked_at() -> None:
    a, mix = ForwardStep(0.1, 1.0), ForwardStep(0.2, 1.0)
    assert scored_direction({"a": a, "mix": mix}, "mix") == ("mix", mix)
    assert scored_direction({"a": a}, "mix") == ("a", a)
    assert scored_direction({}, "mix") == ("mix", None)


def test_a_constant_has_no_correlation() -> None:
    assert correlation(np.ones(4), np.arange(4.0)) is None


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
    asked = DirectionsConfig(output="margin", context_share=share)
    found = target_slopes(model, direction, examples, asked, CONFIG)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
