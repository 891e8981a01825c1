"""Metagradients against trainings in which a row counts a little more at every step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.artifacts import Draft
from dsdm.data.batches import Rows, collate
from dsdm.datamodel.calibration import load_exact
from dsdm.datamodel.config import DirectionsConfig, ScoresConfig
from dsdm.datamodel.directions import Direction, load_direction
from dsdm.datamodel.estimate import Question, direction_path, estimate_of_training
from dsdm.datamodel.estimators import metagradient_directions
from dsdm.datamodel.layers import moved_layers
from dsdm.datamodel.scoring import exact_scores
from dsdm.errors import ConfigError
from dsdm.lm.config import TrainConfig
from dsdm.lm.outputs import example_outputs
from dsdm.lm.replay import Replay
from dsdm.lm.train import Trainer, epoch_order
from tests.conftest import random_rows, tiny_model

ROWS = random_rows(24, longest=9, seed=1)
TARGETS: dict[str, Rows] = {
    "one": random_rows(4, longest=9, seed=5, answer_start=1),
    "two": random_rows(3, longest=9, seed=6, answer_start=1),
}
ORDER = epoch_order(np.arange(24), 2.0, seed=0)
TRAIN = TrainConfig(batch_tokens=60, lr=1e-5, precision="float32", max_grad_norm=0.5)
CONFIG = DirectionsConfig(output="loglik", context_share=0.0, smoothing=0.0, batch_tokens=50)
SCORES = ScoresConfig(
    mode="backward", calibration_rows=12, precision="float32", batch_tokens=50, per_target=True
)


def replay_of(smoothing: float = 0.0) -> Replay:
    return Replay(tiny_model(), ROWS, ORDER, TRAIN, smoothing=smoothing)


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
    found = metagradient_directions(replay_of(), TARGETS, count, CONFIG, lambda tokens: None)
    models = checkpoints(count)
    for target, rows in TARGETS.items():
        scores = sum(
            exact_scores(model, Direction(at[target], "m", target, "p"), ROWS, "loglik", 50)
            for model, at in zip(models, found, strict=True)
        )
        for row in (0, 5, 13, 20):
            up, down = (output_after(row, extra, rows) for extra in (1e-5, -1e-5))
            assert scores[row] == pytest.approx((up - down) / 2e-5, rel=0.02)


def test_a_checkpoint_before_what_is_followed_back_is_an_error() -> None:
    replay = Replay(tiny_model(), ROWS, ORDER, TRAIN, tail=0.5)
    with pytest.raises(ConfigError, match="the first of 3 checkpoints is at step"):
        metagradient_directions(replay, TARGETS, 3, CONFIG, lambda tokens: None)


def test_the_mean_over_checkpoints_has_unit_spread(tmp_path: Path) -> None:
    models, weights = checkpoints(2), {"one": 1.0, "two": 0.5}
    questions = [Question(model, "p", TARGETS, weights, ROWS) for model in models]
    drafts = {i: Draft(tmp_path / str(i)) for i in (0, 1)}
    for draft in drafts.values():
        draft.path.mkdir()
    estimate_of_training(replay_of(), questions, CONFIG, SCORES, drafts, lambda tokens: None)
    exact = [load_exact(draft.path, list(TARGETS)) for draft in drafts.values()]
    for target in TARGETS:
        assert np.mean([one[target] for one in exact], axis=0).std() == pytest.approx(1)
    rows = np.load(tmp_path / "0" / "calibration.npz")["rows"]
    mixed = [
        exact_scores(model, load_direction(direction_path(draft.path, "mix")), ROWS, "loglik", 50)
        for model, draft in zip(models, drafts.values(), strict=True)
    ]
    assert np.mean(mixed, axis=0)[rows].std() == pytest.approx(1)
    weighted = sum(weights[t] * np.mean([one[t] for one in exact], axis=0) for t in TARGETS)
    assert np.corrcoef(weighted, np.mean(mixed, axis=0)[rows])[0, 1] == pytest.approx(1)


def test_what_is_written_for_a_checkpoint_does_not_depend_on_which_others_are(
    tmp_path: Path,
) -> None:
    questions = [
        Question(model, "p", TARGETS, dict.fromkeys(TARGETS, 1.0), ROWS) for model in checkpoints(2)
    ]
    for folder, numbers in (("both", (0, 1)), ("one", (1,))):
        drafts = {i: Draft(tmp_path / folder / str(i)) for i in numbers}
        for draft in drafts.values():
            draft.path.mkdir(parents=True)
        estimate_of_training(replay_of(), questions, CONFIG, SCORES, drafts, lambda tokens: None)
    for file in (tmp_path / "one" / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "both" / "1" / file.name).read_bytes()
