"""LESS against the paper's formulas, one example and one checkpoint at a time, in float64."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.baselines.inputs import BaselineInputs, ProxyCheckpoint
from dsdm.baselines.less import LessConfig, less
from dsdm.data.batches import Row
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import cosine_scores, unit_scores
from dsdm.errors import ArtifactError, NumericalError
from dsdm.learners.lm_layers import linear_layers, moved_layers
from dsdm.lm.config import TrainConfig
from dsdm.lm.moments import Moments, load_moments
from dsdm.lm.schedule import checkpoint_rates, kept_steps
from dsdm.lm.train import epoch_order, plan_steps, train
from tests.conftest import (
    MODELS,
    ListRows,
    learner_of,
    random_rows,
    tiny_model,
    with_unused_layer,
)
from tests.oracles import example_gradient
from tests.tiny_chat import write_chat_experiment
from tests.tiny_runs import Dsdm

POOL = random_rows(24, longest=9, seed=1)
TASKS = {
    "one": random_rows(3, longest=9, seed=6, answer_start=1),
    "two": random_rows(3, longest=9, seed=3, answer_start=1),
}
SETTINGS = LessConfig(batch_tokens=20, precision="float32")
TRAIN = TrainConfig(batch_tokens=30, lr=0.01, precision="float32", betas=(0.9, 0.999))
ORDER = epoch_order(np.arange(24), 4.0, seed=0)
NUM_STEPS = len(plan_steps(POOL.lengths[ORDER], TRAIN.batch_tokens))
COUNT = 3


def checkpoints(
    make: Callable[[], PreTrainedModel], folder: Path, rates: list[float]
) -> list[ProxyCheckpoint]:
    """The models and moments that a real training keeps."""
    folders = {step: folder / str(step) for step in kept_steps(NUM_STEPS, COUNT)}
    work = folder / "work"
    train(make(), POOL, ORDER, TRAIN, work=work, kept=folders, keeps_moments=True)

    def load(path: Path) -> PreTrainedModel:
        model = make()
        missing = model.load_state_dict(load_file(path / "model.safetensors"), strict=False)
        assert missing.unexpected_keys == []
        return model

    return [
        ProxyCheckpoint(partial(load, path), path, rate)
        for path, rate in zip(folders.values(), rates, strict=True)
    ]


def inputs_with(found: list[ProxyCheckpoint], **weights: float) -> BaselineInputs:
    count = len(POOL.rows)
    return BaselineInputs(
        texts=lambda: iter(()),
        targets={},
        weights=weights or dict.fromkeys(TASKS, 1.0),
        num_tokens=POOL.lengths,
        sources=np.zeros(count, np.int32),
        source_names=("",),
        rows=POOL,
        candidate_of_row=np.arange(count),
        proxies=[],
        seed=0,
        fingerprint="",
        target_rows=TASKS,
        checkpoints=found,
    )


def loss_gradient(model: PreTrainedModel, row: Row, names: list[str]) -> Tensor:
    """The gradient of l = -log p, a mean over the counted tokens, as one vector."""
    gradient = example_gradient(model, row, "loglik", names)
    return -torch.cat([gradient[name].flatten() for name in names])


def adam_step(gradient: Tensor, moments: Moments, names: list[str]) -> Tensor:
    """Gamma(z; theta^t) of the paper's section 3.1."""
    b1, b2 = moments.betas
    m, v = (
        torch.cat([part[name].flatten() for name in names])
        for part in (moments.first, moments.second)
    )
    m = (b1 * m + (1 - b1) * gradient) / (1 - b1**moments.steps)
    v = (b2 * v + (1 - b2) * gradient**2) / (1 - b2**moments.steps)
    return m / torch.sqrt(v + 1e-8)


def paper_scores(found: list[ProxyCheckpoint]) -> np.ndarray:
    """For each task sum_i eta_i mean_z cos(grad l(z; theta_i), Gamma(x; theta_i))."""
    scores = np.zeros((len(POOL.rows), len(TASKS)))
    for checkpoint in found:
        model, moments = checkpoint.load(), load_moments(checkpoint.folder)
        names = [n for layer in moved_layers(model, embeddings=True) for n in layer.parameter_names]
        for x, row in enumerate(POOL.rows):
            step = adam_step(loss_gradient(model, row, names), moments, names)
            for j, task in enumerate(TASKS.values()):
                cosines = [
                    torch.nn.functional.cosine_similarity(
                        loss_gradient(model, z, names), step, dim=0
                    ).item()
                    for z in task.rows
                ]
                scores[x, j] += checkpoint.weight * np.mean(cosines)
    return scores


@pytest.mark.parametrize("name", sorted(MODELS))
def test_scores_are_the_papers_formulas(tmp_path: Path, name: str) -> None:
    rates = checkpoint_rates(TRAIN, NUM_STEPS, COUNT)
    found = checkpoints(partial(tiny_model, name), tmp_path, [r / sum(rates) for r in rates])
    expected = paper_scores(found)
    ours = less(inputs_with(found), SETTINGS)
    # Scores of rows are kept in float32.
    np.testing.assert_allclose(ours.values, expected.max(1), rtol=1e-6, atol=1e-8)
    # Both tasks are the best for some candidate, or the maximum would not be tested.
    assert set(expected.argmax(1)) == {0, 1}
    one = less(inputs_with(found, one=1.0, two=0.0), SETTINGS)
    np.testing.assert_allclose(one.values, expected[:, 0], rtol=1e-6, atol=1e-8)


def test_a_parameter_without_gradient_changes_no_score(tmp_path: Path) -> None:
    def make() -> PreTrainedModel:
        return with_unused_layer(tiny_model())

    weights = [1 / COUNT] * COUNT
    plain, unused = (
        less(inputs_with(checkpoints(one, tmp_path / name, weights)), SETTINGS).values
        for name, one in (("plain", tiny_model), ("unused", make))
    )
    np.testing.assert_allclose(unused, plain, rtol=1e-6)


def test_checkpoints_count_for_the_mean_learning_rate_that_led_to_them() -> None:
    config = TrainConfig(lr=1.0, warmup_ratio=0.0, min_lr_ratio=0.0)
    rates = [0.5 * (1 + np.cos(np.pi * step / 9)) for step in range(9)]
    rates = [1.0, *rates[:9]]  # one step of warm-up
    assert kept_steps(10, 4) == [2, 5, 8, 10]
    expected = [np.mean(rates[a:b]) for a, b in ((0, 2), (2, 5), (5, 8), (8, 10))]
    np.testing.assert_allclose(checkpoint_rates(config, 10, 4), expected, atol=1e-12)


def test_an_earlier_first_checkpoint_counts_for_fewer_steps() -> None:
    config = TrainConfig(lr=1.0, warmup_ratio=0.0, min_lr_ratio=1.0)  # the same rate all along
    assert kept_steps(20, 2, 0.25) == [5, 20]
    np.testing.assert_allclose(checkpoint_rates(config, 20, 2, 0.25), [0.5, 1.5], atol=1e-12)
    assert kept_steps(21, 3, 1 / 3) == kept_steps(21, 3)
    equal = [checkpoint_rates(config, 21, 3, first) for first in (1 / 3, None)]
    np.testing.assert_allclose(*equal, atol=1e-12)
    # By the steps as they are rounded.
    assert kept_steps(3, 2, 0.25) == [1, 3]
    np.testing.assert_allclose(checkpoint_rates(config, 3, 2, 0.25), [2 / 3, 4 / 3], atol=1e-12)
    assert kept_steps(20, 1, 0.25) == [20]


def random_direction(model: PreTrainedModel, seed: int) -> Direction:
    torch.manual_seed(seed)
    named = dict(model.named_parameters())
    names = [n for layer in moved_layers(model, embeddings=True) for n in layer.parameter_names]
    return Direction({n: torch.randn_like(named[n]) for n in names}, "ekfac", str(seed), "")


def flat(tensors: Mapping[str, Tensor], names: Any) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


@pytest.mark.parametrize("output", ["margin", "loglik"])
@pytest.mark.parametrize("batch_tokens", [9, 1000])
def test_cosines_are_those_of_whole_gradients(
    model: PreTrainedModel, output: Any, batch_tokens: int
) -> None:
    directions = [random_direction(model, seed) for seed in (0, 1)]
    ours = cosine_scores(learner_of(model, output, batch_tokens=batch_tokens), directions, POOL)
    for row, values in zip(POOL.rows, ours, strict=True):
        gradient = example_gradient(model, row, output, list(directions[0].tensors))
        for direction, value in zip(directions, values, strict=True):
            u, g = (flat(tensors, direction.tensors) for tensors in (direction.tensors, gradient))
            assert value == pytest.approx((u @ g / u.norm() / g.norm()).item(), abs=1e-9)


def test_a_row_that_teaches_nothing_scores_nothing() -> None:
    model = tiny_model()
    rows = ListRows([Row(np.arange(5), counted=np.zeros(5, bool)), POOL.rows[0]])
    scores = unit_scores(learner_of(model, "loglik"), [random_direction(model, 0)], rows)
    assert scores[0, 0] == 0
    assert scores[1, 0] != 0


def test_weights_that_are_nan_are_an_error() -> None:
    model = tiny_model()
    with torch.no_grad():
        linear_layers(model)[0].modules[0].weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="NaN or infinite"):
        unit_scores(learner_of(model, "loglik"), [random_direction(model, 0)], POOL)


def test_less_needs_the_moments(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write_chat_experiment(tmp_path, estimator="less")
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "`less` needs Adam's moments: set proxies.moments to true" in err


def test_a_check_of_less_is_refused(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write_chat_experiment(tmp_path, estimator="less", proxies={"moments": True})
    code, _, err = dsdm("check", experiment)
    assert code == 2
    assert "no slopes along a direction" in err


def test_more_checkpoints_than_steps_are_an_error(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write_chat_experiment(
        tmp_path, proxies={"checkpoints": 500}, directions={"estimators": ["gradient"]}
    )
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "proxies.checkpoints 500: a proxy is trained for" in err


@pytest.mark.parametrize(
    ("proxies", "message"),
    [
        ({"first_checkpoint": 0.25}, "set proxies.checkpoints to 2 or more"),
        ({"checkpoints": 2, "first_checkpoint": 0.999}, "proxies.first_checkpoint 0.999: "),
    ],
)
def test_a_first_checkpoint_that_is_none_is_an_error(
    tmp_path: Path, dsdm: Dsdm, proxies: dict[str, object], message: str
) -> None:
    experiment = write_chat_experiment(
        tmp_path, proxies=proxies, directions={"estimators": ["gradient"]}
    )
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert message in err


def test_moments_that_are_lost_are_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"moments\.safetensors: .*--redo proxies"):
        load_moments(tmp_path)
    (tmp_path / "moments.safetensors").write_bytes(b"not weights")
    with pytest.raises(ArtifactError, match="can't be read"):
        load_moments(tmp_path)
