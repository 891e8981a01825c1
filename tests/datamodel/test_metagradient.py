"""Metagradients against trainings in which a row counts a little more at every step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, collate
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimate import estimate_along_training, save_estimated
from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors
from dsdm.datamodel.estimators.metagradient import MetagradientConfig
from dsdm.datamodel.estimators.metagradient_math import metagradient_directions
from dsdm.datamodel.scoring import exact_scores
from dsdm.errors import ConfigError
from dsdm.learners.lm_layers import moved_layers
from dsdm.learners.protocol import Training
from dsdm.lm.config import TrainConfig
from dsdm.lm.outputs import example_outputs
from dsdm.lm.replay import Replay
from dsdm.lm.train import Trainer, epoch_order
from tests.conftest import learner_of, random_rows, tiny_model, with_unused_layer

ROWS = random_rows(24, longest=9, seed=1)
TARGETS: dict[str, Rows] = {
    "one": random_rows(4, longest=9, seed=5, answer_start=1),
    "two": random_rows(3, longest=9, seed=6, answer_start=1),
}
ORDER = epoch_order(np.arange(24), 2.0, seed=0)
TRAIN = TrainConfig(batch_tokens=60, lr=1e-5, precision="float32", max_grad_norm=0.5)
WHOLE = MetagradientConfig(tail=1.0, smoothing=0.0)
SCORES = ScoresConfig(mode="backward", calibration_rows=12, per_target=True)
WEIGHTS = {"one": 1.0, "two": 0.5}


def replay_of(tail: float = 1.0, smoothing: float = 0.0) -> Replay:
    return Replay(tiny_model(), ROWS, ORDER, TRAIN, tail=tail, smoothing=smoothing)


def inputs_of(model: PreTrainedModel, num_checkpoints: int) -> EstimatorInputs:
    training = Training(replay_of, num_checkpoints)
    return EstimatorInputs(learner_of(model, "loglik"), TARGETS, ROWS, WEIGHTS, training=training)


def checkpoints(count: int) -> list[PreTrainedModel]:
    """The model at the ends of equal parts of the training."""
    models = []
    trainer = Trainer(tiny_model(), ROWS, ORDER, TRAIN)
    for number in range(count):
        while trainer.step < round(len(trainer.steps) * (number + 1) / count):
            trainer.take_step()
        model = tiny_model()
        model.load_state_dict({n: t.clone() for n, t in trainer.model.state_dict().items()})
        models.append(model)
    return models


class Weighted(Trainer):
    """A training in which a row counts for `extra` more at every step, by its mean loss.

    Only through the layers that directions move.
    """

    row = 0
    extra = 0.0

    def backward(self, part: np.ndarray) -> Tensor:
        loss = super().backward(part)
        names = [n for la in moved_layers(self.model, embeddings=True) for n in la.parameter_names]
        parameters = [self.model.get_parameter(name) for name in names]
        batch = collate([ROWS.row(self.row)])
        gain = example_outputs(self.model, batch, "loglik").sum()
        counted = self.micro_batches(part)[1]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(gain, parameters), strict=True
        ):
            assert parameter.grad is not None
            parameter.grad.add_(gradient, alpha=-self.extra / counted)
        return loss


def output_after(row: int, extra: float, target: Rows) -> float:
    trainer = Weighted(tiny_model(), ROWS, ORDER, TRAIN)
    trainer.row, trainer.extra = row, extra
    while trainer.step < len(trainer.steps):
        trainer.take_step()
    batch = collate([target.row(i) for i in range(len(target.lengths))])
    return float(example_outputs(trainer.model, batch, "loglik").mean().detach())


def test_scores_are_what_a_rows_weight_does_to_the_trained_models_output() -> None:
    count = replay_of().num_steps
    found = metagradient_directions(inputs_of(tiny_model(), count), WHOLE)
    models = checkpoints(count)
    for target, rows in TARGETS.items():
        scores = sum(
            exact_scores(learner_of(model, "loglik"), Direction(at[target], "m", target), ROWS)
            for model, at in zip(models, found, strict=True)
        )
        for row in (0, 5, 13, 20):
            up, down = (output_after(row, extra, rows) for extra in (1e-5, -1e-5))
            assert scores[row] == pytest.approx((up - down) / 2e-5, rel=0.02)


def test_a_checkpoint_before_what_is_followed_back_is_an_error() -> None:
    with pytest.raises(ConfigError, match="the first of 3 checkpoints is at step"):
        metagradient_directions(inputs_of(tiny_model(), 3), MetagradientConfig(tail=0.5))


def test_the_mean_over_checkpoints_has_unit_spread() -> None:
    models = checkpoints(2)
    found = estimate_along_training(
        [inputs_of(m, 2) for m in models], "metagradient", WHOLE, SCORES
    )
    exact = [found[i].exact for i in (0, 1)]
    for target in TARGETS:
        assert np.mean([one[target] for one in exact], axis=0).std() == pytest.approx(1)
    rows = found[0].calibration_examples
    mixed = [
        exact_scores(learner_of(model, "loglik"), found[i].directions["mix"], ROWS)
        for i, model in enumerate(models)
    ]
    assert np.mean(mixed, axis=0)[rows].std() == pytest.approx(1)
    weighted = sum(WEIGHTS[t] * np.mean([one[t] for one in exact], axis=0) for t in TARGETS)
    assert np.corrcoef(weighted, np.mean(mixed, axis=0)[rows])[0, 1] == pytest.approx(1)


def test_what_is_written_for_a_checkpoint_does_not_depend_on_which_others_are(
    tmp_path: Path,
) -> None:
    inputs = [inputs_of(model, 2) for model in checkpoints(2)]
    for name, numbers in (("both", (0, 1)), ("one", (1,))):
        found = estimate_along_training(inputs, "metagradient", WHOLE, SCORES, numbers)
        assert set(found) == set(numbers)
        for number, one in found.items():
            (tmp_path / name / str(number)).mkdir(parents=True)
            save_estimated(one, tmp_path / name / str(number))
    for file in (tmp_path / "one" / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "both" / "1" / file.name).read_bytes()


def test_a_parameter_without_gradient_is_not_moved() -> None:
    def directions(model: PreTrainedModel) -> Tensors:
        def replay(tail: float, smoothing: float) -> Replay:
            return Replay(model, ROWS, ORDER, TRAIN, tail=tail, smoothing=smoothing)

        inputs = EstimatorInputs(
            learner_of(model, "loglik"), TARGETS, ROWS, training=Training(replay)
        )
        return metagradient_directions(inputs, WHOLE)[0]["one"]

    found, plain = directions(with_unused_layer(tiny_model())), directions(tiny_model())
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, plain.get(name, torch.zeros_like(tensor)))
