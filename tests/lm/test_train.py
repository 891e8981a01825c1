"""Training against a hand-written loop, and training that is cut short."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from dsdm.data.batches import Row, collate
from dsdm.errors import ArtifactError, NumericalError
from dsdm.lm.config import TrainConfig
from dsdm.lm.train import TrainResult, epoch_order, plan_steps, train
from tests.conftest import ListRows, random_rows, tiny_model, with_unused_layer

ROWS = random_rows(40, longest=9)
CONFIG = TrainConfig(batch_tokens=40, micro_batch_tokens=30, lr=0.01, precision="float32")


def order_of(epochs: float = 3.0) -> np.ndarray:
    return epoch_order(np.arange(40), epochs, seed=1)


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def counting_rows() -> ListRows:
    """Rows in which each token is the one before plus one."""
    return ListRows([Row((np.arange(8) + start) % 23) for start in range(23)])


def test_loss_falls_where_there_is_something_to_learn(tmp_path: Path) -> None:
    model = tiny_model("gpt2", scale=0.5).float()
    rows, config = counting_rows(), TrainConfig(batch_tokens=64, lr=0.02)
    order = epoch_order(np.arange(23), 60.0, seed=0)
    result = train(model, rows, order, config, work=tmp_path)
    losses = [entry["loss"] for entry in result.metrics]
    assert losses[0] > 2.5
    assert losses[-1] < 0.5
    assert not model.training


def hand_written(model: PreTrainedModel, order: np.ndarray, config: TrainConfig) -> list[float]:
    """AdamW as torch documents it, one plain batch a step, gradients clipped by hand."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False, fused=False)
    steps, losses = plan_steps(ROWS.lengths[order], config.batch_tokens), []
    for number, step in enumerate(steps):
        batch = collate([ROWS.rows[i] for i in order[step]])
        logits = model(input_ids=batch.inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        for parameter in model.parameters():
            parameter.grad.mul_(min(1.0, config.max_grad_norm / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, number, len(steps))
        optimizer.step()
        losses.append(loss.item())
    return losses


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Linear warm-up over the first 5%, then a cosine to a tenth."""
    warmup = round(0.05 * num_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))
    return config.lr * (0.1 + 0.9 * cosine)


@pytest.mark.parametrize("name", ["gpt2", "llama-bias"])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_training_equals_a_hand_written_loop(tmp_path: Path, name: str, clip: float) -> None:
    config = TrainConfig(
        batch_tokens=40, micro_batch_tokens=30, lr=0.01, precision="float32", max_grad_norm=clip
    )
    ours, theirs = tiny_model(name), tiny_model(name)
    result = train(ours, ROWS, order_of(), config, work=tmp_path)
    losses = hand_written(theirs, order_of(), config)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-9, atol=1e-11)
    assert result.steps == len(losses)
    assert result.metrics[0]["step"] == 20
    assert result.metrics[0]["loss"] == pytest.approx(np.mean(losses[:20]), rel=1e-6)
    assert result.metrics[-1]["loss"] == pytest.approx(np.mean(losses[-(len(losses) % 20) :]))
    assert result.tokens == ROWS.lengths[order_of()].sum()


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    one, many = tiny_model(), tiny_model()
    for model, tokens, work in ((one, 1, "one"), (many, 10_000, "many")):
        config = TrainConfig(batch_tokens=40, micro_batch_tokens=tokens, precision="float32")
        train(model, ROWS, order_of(), config, work=tmp_path / work)
    torch.testing.assert_close(weights(one), weights(many), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("batch_tokens", [1, 7, 40, 10_000])
def test_steps_cover_every_row_once_and_in_order(batch_tokens: int) -> None:
    lengths = ROWS.lengths
    steps = plan_steps(lengths, batch_tokens)
    covered = np.concatenate([np.arange(len(lengths))[step] for step in steps])
    assert covered.tolist() == list(range(len(lengths)))
    assert all(step.stop > step.start for step in steps)
    # A step ends with the row that reaches its share of tokens, so none is over by a whole row.
    tokens = [lengths[step].sum() for step in steps]
    assert max(tokens) < batch_tokens + lengths.max()


def test_steps_of_rows_that_fit_exactly_are_exactly_full() -> None:
    assert plan_steps(np.full(12, 10), 40) == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_each_epoch_has_every_index_once_in_a_new_order() -> None:
    indices = np.array([3, 5, 8, 13, 21, 34])
    order = epoch_order(indices, 2.5, seed=0)
    first, second, part = order[:6], order[6:12], order[12:]
    assert sorted(first) == sorted(second) == indices.tolist()
    assert first.tolist() != second.tolist()
    assert len(set(part)) == 3
    assert set(part) <= set(indices)
    assert epoch_order(indices, 2.5, seed=0).tolist() == order.tolist()
    assert epoch_order(indices, 2.5, seed=1).tolist() != order.tolist()
    assert len(epoch_order(indices, 0.5, seed=0)) == 3


def test_a_step_that_predicts_nothing_changes_no_loss(tmp_path: Path) -> None:
    rows = ListRows([*ROWS.rows[:5], Row(np.array([3]))])
    order = np.arange(6)
    tokens = int(rows.lengths[:5].sum())
    config = TrainConfig(batch_tokens=tokens, precision="float32")
    assert plan_steps(rows.lengths, tokens)[-1] == slice(5, 6)
    model = tiny_model()
    result = train(model, rows, order, config, work=tmp_path)
    assert result.steps == 2
    assert torch.isfinite(weights(model)).all()


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_at(step: int) -> Callable[[int], None]:
    calls = 0

    def advance(tokens: int) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KilledError

    return advance


CHECKPOINTS = TrainConfig(
    batch_tokens=10, lr=0.01, precision="float32", checkpoint_seconds=0.0, micro_batch_tokens=30
)


def finish(model: PreTrainedModel, work: Path) -> TrainResult:
    return train(model, ROWS, order_of(2.0), CHECKPOINTS, work=work)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("kills", [(3,), (20,), (33,), (25, 22, 5)])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, name: str, kills: tuple[int, ...]
) -> None:
    whole = tiny_model(name).float()
    undisturbed = finish(whole, tmp_path / "undisturbed")
    assert undisturbed.steps > 40
    for step in kills:
        with pytest.raises(KilledError):
            train(
                tiny_model(name).float(),
                ROWS,
                order_of(2.0),
                CHECKPOINTS,
                work=tmp_path / "killed",
                advance=killed_at(step),
            )
    resumed = tiny_model(name).float()
    steps: list[int] = []
    result = train(
        resumed, ROWS, order_of(2.0), CHECKPOINTS, work=tmp_path / "killed", advance=steps.append
    )
    assert torch.equal(weights(resumed), weights(whole))
    assert result.metrics == undisturbed.metrics
    assert (result.steps, result.tokens) == (undisturbed.steps, undisturbed.tokens)
    assert sum(steps) == result.tokens
    if max(kills) > 20:
        assert len(steps) <= result.steps - 20 + 1
        assert result.seconds_before > 0


def test_a_training_killed_while_it_replaces_its_checkpoint_goes_on_from_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tiny_model().float(), tiny_model().float()
    finish(whole, tmp_path / "undisturbed")
    rename = os.rename

    def killed(old: Path, new: Path) -> None:
        # The first checkpoint is aside, and the second is about to take its place.
        if (tmp_path / "killed" / ".checkpoint.old").exists():
            raise KilledError
        rename(old, new)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KilledError):
        finish(tiny_model().float(), tmp_path / "killed")
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "checkpoint").exists()
    assert finish(resumed, tmp_path / "killed").seconds_before > 0
    assert torch.equal(weights(resumed), weights(whole))


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    with pytest.raises(KilledError):
        train(
            tiny_model(),
            ROWS,
            order_of(),
            CHECKPOINTS,
            work=tmp_path,
            fingerprint="this",
            advance=killed_at(30),
        )
    return tmp_path


@pytest.mark.parametrize(
    ("epochs", "lr", "fingerprint", "message"),
    [
        (2.0, 0.01, "this", "order"),
        (3.0, 0.02, "this", "lr: 0.01 -> 0.02"),
        (3.0, 0.01, "that", "training: 'this' -> 'that'"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(
    interrupted: Path, epochs: float, lr: float, fingerprint: str, message: str
) -> None:
    config = TrainConfig(
        batch_tokens=10, lr=lr, precision="float32", checkpoint_seconds=0.0, micro_batch_tokens=30
    )
    with pytest.raises(ArtifactError, match=message):
        train(
            tiny_model(), ROWS, order_of(epochs), config, work=interrupted, fingerprint=fingerprint
        )


def test_a_checkpoint_is_resumed_with_another_time_between_checkpoints(interrupted: Path) -> None:
    config = TrainConfig(
        batch_tokens=10, lr=0.01, precision="float32", checkpoint_seconds=9.0, micro_batch_tokens=30
    )
    result = train(tiny_model(), ROWS, order_of(), config, work=interrupted, fingerprint="this")
    assert result.seconds_before > 0


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wpe.weight[0] = float("nan")
    with pytest.raises(NumericalError, match=r"loss is nan at step 20 of \d+.*lr is 0\.01"):
        train(model, ROWS, order_of(), CHECKPOINTS, work=tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_a_training_that_diverges_in_its_last_steps_is_an_error(tmp_path: Path) -> None:
    config = TrainConfig(batch_tokens=40, lr=1e30, precision="float32")
    with pytest.raises(NumericalError):
        train(tiny_model().float(), ROWS, order_of(), config, work=tmp_path)


def test_a_parameter_without_gradient_stays_as_it_is_and_has_no_moments(tmp_path: Path) -> None:
    model = with_unused_layer(tiny_model())
    before = model.base_model.unused.weight.detach().clone()
    result = train(model, ROWS, order_of(), CONFIG, work=tmp_path / "a", keeps_moments=True)
    assert torch.equal(model.base_model.unused.weight, before)
    assert result.moments is not None
    names = {name for name, _ in model.named_parameters() if "unused" not in name}
    assert set(result.moments.first) == set(result.moments.second) == names
    plain = train(tiny_model(), ROWS, order_of(), CONFIG, work=tmp_path / "b")
    assert plain.metrics == result.metrics
    assert plain.moments is None
