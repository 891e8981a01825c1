"""The replayed training's derivatives against trainings in which one row counts a little more."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, collate
from dsdm.lm.config import TrainConfig
from dsdm.lm.outputs import plain_token_outputs
from dsdm.lm.replay import Influence, Replay
from dsdm.lm.train import Trainer, epoch_order, plan_steps, train
from tests.conftest import MODELS, random_rows, tiny_model, with_unused_layer

ROWS = random_rows(24, longest=9, seed=1)
TARGET = random_rows(4, longest=9, seed=5)
ORDER = epoch_order(np.arange(24), 2.0, seed=0)
CONFIG = TrainConfig(batch_tokens=40, micro_batch_tokens=30, lr=0.003, precision="float32")


def loss_on(model: PreTrainedModel, rows: Rows) -> Tensor:
    batch = collate([rows.row(i) for i in range(len(rows.lengths))])
    return -plain_token_outputs(model, batch, "loglik").sum()


def target_gradient(model: PreTrainedModel) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss_on(model, TARGET), parameters)
    return dict(zip(names, gradients, strict=True))


def row_gradient(model: PreTrainedModel, row: int) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = -plain_token_outputs(model, collate([ROWS.row(row)]), "loglik").sum()
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


class Weighted(Trainer):
    """A training at one of whose steps a row counts for `extra` more, in the loss's sum."""

    changed = -1
    row = 0
    extra = 0.0

    def backward(self, part: np.ndarray) -> Tensor:
        loss = super().backward(part)
        if self.step == self.changed:
            counted = self.micro_batches(part)[1]
            for name, gradient in row_gradient(self.model, self.row).items():
                parameter = self.model.get_parameter(name)
                assert parameter.grad is not None
                parameter.grad.add_(gradient, alpha=self.extra / counted)
        return loss


def loss_after(name: str, config: TrainConfig, step: int, row: int, extra: float) -> float:
    trainer = Weighted(tiny_model(name), ROWS, ORDER, config)
    trainer.changed, trainer.row, trainer.extra = step, row, extra
    while trainer.step < len(trainer.steps):
        trainer.take_step()
    return float(loss_on(trainer.model, TARGET).detach())


def influences(name: str, config: TrainConfig) -> Iterator[Influence]:
    replay = Replay(tiny_model(name), ROWS, ORDER, config)
    gradient = target_gradient(replay.train())
    yield from replay.influences([gradient, {n: 2 * g for n, g in gradient.items()}])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_a_rows_weight_at_a_step_changes_the_targets_loss_as_foretold(
    name: str, clip: float
) -> None:
    config = TrainConfig(
        batch_tokens=40, micro_batch_tokens=30, lr=0.003, precision="float32", max_grad_norm=clip
    )
    num_steps = len(plan_steps(ROWS.lengths[ORDER], config.batch_tokens))
    trainer = Trainer(tiny_model(name), ROWS, ORDER, config)
    found = {one.step: one for one in influences(name, config)}
    assert sorted(found) == list(range(num_steps))
    for step in (0, num_steps // 2, num_steps - 1):
        while trainer.step < step:
            trainer.take_step()
        # One that the step trains on: Adam has no derivative where a gradient is exactly 0.
        row = int(trainer.rows_of(step)[0])
        gradient = row_gradient(trainer.model, row)
        up, down = (loss_after(name, config, step, row, extra) for extra in (1e-6, -1e-6))
        expected = (up - down) / 2e-6
        influence = found[step]
        products = [
            sum(float((tensors[n] * g).sum()) for n, g in gradient.items()) / influence.counted
            for tensors in influence.derivatives
        ]
        assert products[0] == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert products[1] == pytest.approx(2 * products[0])


def test_a_replay_ends_with_the_trainings_own_weights(tmp_path: Path) -> None:
    trained = tiny_model("gpt2").float()
    train(trained, ROWS, ORDER, CONFIG, work=tmp_path)
    replayed = Replay(tiny_model("gpt2").float(), ROWS, ORDER, CONFIG).train()
    for name, parameter in replayed.named_parameters():
        assert torch.equal(parameter, trained.get_parameter(name))


def test_the_tail_alone_is_followed_back() -> None:
    whole = {one.step: one for one in influences("gpt2", CONFIG)}
    replay = Replay(tiny_model("gpt2"), ROWS, ORDER, CONFIG, tail=0.5)
    gradient = target_gradient(replay.train())
    tail = list(replay.influences([gradient]))
    num_steps = len(whole)
    assert [one.step for one in tail] == list(range(num_steps - 1, round(num_steps / 2) - 1, -1))
    for one in tail:
        for name, tensor in one.derivatives[0].items():
            torch.testing.assert_close(tensor, whole[one.step].derivatives[0][name])


@pytest.mark.parametrize("micro_batch_tokens", [30, 100])
def test_states_that_are_made_again_say_what_kept_ones_do(
    micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = msgspec.structs.replace(CONFIG, micro_batch_tokens=micro_batch_tokens)
    kept = list(influences("gpt2", config))
    monkeypatch.setattr("dsdm.lm.replay.KEPT_BYTES", 0)
    for one, again in zip(kept, influences("gpt2", config), strict=True):
        assert one.step == again.step
        for name, tensor in one.derivatives[0].items():
            torch.testing.assert_close(tensor, again.derivatives[0][name])


def test_a_step_in_one_batch_is_followed_back_as_one_in_several() -> None:
    whole = msgspec.structs.replace(CONFIG, micro_batch_tokens=100)
    for one, other in zip(influences("gpt2", CONFIG), influences("gpt2", whole), strict=True):
        for name, tensor in one.derivatives[0].items():
            torch.testing.assert_close(tensor, other.derivatives[0][name], rtol=1e-6, atol=1e-9)


def test_what_is_spared_is_not_counted() -> None:
    def passes(model: PreTrainedModel, config: TrainConfig) -> float:
        return Replay(model, ROWS, ORDER, config).passes(2)

    several = passes(tiny_model("gpt2"), CONFIG)
    whole = msgspec.structs.replace(CONFIG, micro_batch_tokens=100)
    assert several - passes(tiny_model("gpt2"), whole) == pytest.approx(3)
    frozen = tiny_model("gpt2").requires_grad_(False)
    frozen.get_parameter("transformer.ln_f.weight").requires_grad_(True)
    assert passes(frozen, CONFIG) == pytest.approx(several * 2 / 3, rel=0.01)


def test_a_parameter_without_gradient_has_derivatives_of_zero() -> None:
    def influences(model: PreTrainedModel) -> list[Influence]:
        replay = Replay(model, ROWS, ORDER, CONFIG)
        trained = replay.train()
        named = dict(trained.named_parameters())
        gradients = torch.autograd.grad(
            loss_on(trained, TARGET), list(named.values()), materialize_grads=True
        )
        return list(replay.influences([dict(zip(named, gradients, strict=True))]))

    for found, plain in zip(
        influences(with_unused_layer(tiny_model())), influences(tiny_model()), strict=True
    ):
        for name, derivative in found.derivatives[0].items():
            expected = plain.derivatives[0].get(name, torch.zeros_like(derivative))
            torch.testing.assert_close(derivative, expected)
