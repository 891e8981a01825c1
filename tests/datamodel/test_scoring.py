"""Scorers against each other and against a loop of autograd."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from dsdm.data.batches import collate
from dsdm.datamodel import calibrate as calibrating
from dsdm.datamodel.calibrate import FINER, GOOD, SHRINKS, calibrate
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.direction import Direction, add_directions
from dsdm.datamodel.scoring import (
    EXACT_PASSES,
    FORWARD_PASSES,
    exact_scores,
    score_backward,
    score_forward,
)
from dsdm.errors import NumericalError
from dsdm.lm.config import Output
from dsdm.lm.outputs import example_outputs
from tests.conftest import ListRows, learner_of, moved_names, random_rows, tiny_model

CONFIG = ScoresConfig(calibration_rows=8)


def random_direction(model: PreTrainedModel, seed: int = 0, *, every: bool = False) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    names = list(named) if every else moved_names(model)
    tensors = {
        n: torch.randn(named[n].shape, generator=generator, dtype=torch.float64) for n in names
    }
    return Direction(tensors, "random", "mix", "p")


def slopes_by_autograd(
    model: PreTrainedModel, direction: Direction, rows: ListRows, output: Output
) -> np.ndarray:
    named = dict(model.named_parameters())
    parameters = [named[name] for name in direction.tensors]
    slopes = []
    for row in rows.rows:
        f = example_outputs(model, collate([row]), output).sum()
        gradients = torch.autograd.grad(f, parameters)
        pairs = zip(gradients, direction.tensors.values(), strict=True)
        slopes.append(sum((g * u).sum() for g, u in pairs).item())
    return np.array(slopes)


@pytest.mark.parametrize("output", ["margin", "loglik"])
def test_backward_scores_equal_autograd(model: PreTrainedModel, output: Output) -> None:
    rows = random_rows(7)
    directions = [random_direction(model, seed) for seed in range(3)]
    scores = score_backward(learner_of(model, output, batch_tokens=24), directions, rows)
    for k, direction in enumerate(directions):
        expected = slopes_by_autograd(model, direction, rows, output)
        np.testing.assert_allclose(scores[:, k], expected, rtol=1e-9, atol=1e-12)


def test_one_methods_scores_are_the_same_bits_whatever_is_scored_beside_it() -> None:
    model, rows = tiny_model().float(), random_rows(7)
    one, other = random_direction(model, 1), random_direction(model, 2)
    other = dataclasses.replace(other, estimator="other")
    alone = score_backward(learner_of(model, "loglik", batch_tokens=24), [one], rows)
    beside = score_backward(learner_of(model, "loglik", batch_tokens=24), [other, one, other], rows)
    np.testing.assert_array_equal(alone[:, 0], beside[:, 1])


@pytest.mark.parametrize("every", [False, True])
def test_exact_scores_equal_autograd(model: PreTrainedModel, every: bool) -> None:
    rows = random_rows(5)
    direction = random_direction(model, every=every)
    scores = exact_scores(learner_of(model, "margin", batch_tokens=24), direction, rows)
    expected = slopes_by_autograd(model, direction, rows, "margin")
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def test_forward_scores_converge_to_the_exact_derivative(model: PreTrainedModel) -> None:
    rows = random_rows(5)
    direction = random_direction(model, every=True)
    exact = exact_scores(learner_of(model, "margin", batch_tokens=24), direction, rows)
    forward = score_forward(learner_of(model, "margin", batch_tokens=24), direction, rows, 1e-5)
    np.testing.assert_allclose(forward, exact, rtol=1e-5, atol=1e-7)


def test_scoring_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    rows = random_rows(3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    direction = random_direction(model)
    score_backward(learner_of(model, "margin", batch_tokens=24), [direction], rows)
    score_forward(learner_of(model, "margin", batch_tokens=24), direction, rows, 1e-3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None
    assert not any(m._forward_hooks for m in model.modules())


def test_batch_size_changes_nothing() -> None:
    model, rows = tiny_model(), random_rows(9)
    direction = random_direction(model)
    one, many = (learner_of(model, "loglik", batch_tokens=tokens) for tokens in (1, 1000))
    np.testing.assert_allclose(
        score_backward(one, [direction], rows),
        score_backward(many, [direction], rows),
        rtol=1e-9,
    )


def test_permuting_candidates_permutes_scores() -> None:
    model, rows = tiny_model(), random_rows(9)
    order = np.random.default_rng(0).permutation(9)
    shuffled = ListRows([rows.rows[i] for i in order])
    direction = random_direction(model)
    scores = score_backward(learner_of(model, "loglik", batch_tokens=24), [direction], rows)
    again = score_backward(learner_of(model, "loglik", batch_tokens=24), [direction], shuffled)
    np.testing.assert_allclose(again, scores[order], rtol=1e-9)


def test_scores_are_linear_in_the_direction() -> None:
    model, rows = tiny_model(), random_rows(4)
    one, two = random_direction(model, 1), random_direction(model, 2)
    mix = add_directions([one, two], [2.0, -0.5])
    scores = score_backward(learner_of(model, "margin", batch_tokens=24), [one, two, mix], rows)
    np.testing.assert_allclose(scores[:, 2], 2 * scores[:, 0] - 0.5 * scores[:, 1], rtol=1e-9)


def test_calibration_sets_the_step_from_the_effect() -> None:
    model, rows = tiny_model(), random_rows(8)
    direction = random_direction(model).scaled(37.0)
    calibration = calibrate(learner_of(model), direction, rows, CONFIG)
    assert calibration.forward.correlation > 0.98
    assert calibration.forward.step * calibration.spread <= CONFIG.effect_nats + 1e-12


def test_calibration_takes_the_step_that_agrees_best() -> None:
    model, rows = tiny_model(), random_rows(8)
    calibration = calibrate(learner_of(model), random_direction(model), rows, CONFIG)
    # In fp64 nothing is rounded that matters, so the smallest step is the best.
    effect = calibration.forward.step * calibration.spread
    assert effect == pytest.approx(CONFIG.effect_nats * min(SHRINKS))


def test_where_outputs_bend_float32_takes_finer_steps() -> None:
    model, rows = tiny_model(), random_rows(8)
    config = ScoresConfig(effect_nats=2.0)
    found = calibrate(learner_of(model), random_direction(model), rows, config)
    assert found.forward.correlation > GOOD
    effect = found.forward.step * found.spread
    assert effect == pytest.approx(config.effect_nats * min(FINER))
    assert found.passes == EXACT_PASSES + FORWARD_PASSES * len(SHRINKS + FINER)


def test_what_bf16_rounds_away_is_scored_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model().float(), random_rows(8)
    monkeypatch.setattr(calibrating, "uses_bfloat16", lambda device, precision: True)
    direction = random_direction(model)
    # Of so small an effect that nothing of it is left in bf16.
    config = ScoresConfig(effect_nats=1e-3)
    with pytest.raises(NumericalError, match=r"in bfloat16.* or scores.precision to auto"):
        calibrate(learner_of(model, precision="bfloat16"), direction, rows, config)
    learner = learner_of(model, precision="auto")
    found = calibrate(learner, direction, rows, config)
    assert found.forward.precision == "float32"
    assert found.passes == EXACT_PASSES + FORWARD_PASSES * 2 * len(SHRINKS)
    coarse = calibrate(learner, direction, rows, ScoresConfig(effect_nats=0.5))
    assert coarse.forward.precision == "bfloat16"


def test_disagreement_with_the_derivative_is_an_error_with_the_numbers() -> None:
    model, rows = tiny_model(), random_rows(8)
    config = ScoresConfig(effect_nats=1e6)
    with pytest.raises(NumericalError, match=r"correlation -?\d\.\d+ at step"):
        calibrate(learner_of(model), random_direction(model), rows, config)
