"""dsdm's own methods, measured as the peers' are: forward and backward scoring, and their floors.

The direction is the targets' mean gradient in the weights of the blocks' linear layers, so that the
scores are the dot products of gradients that the peers compute too.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peers.worker import Job, Method

from dsdm.data.batches import Row, iter_batches
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.gradients import mean_gradient
from dsdm.datamodel.layers import linear_layers
from dsdm.datamodel.scoring import calibrate, forward_tokens, score_backward, score_forward
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import autocast, load_saved
from dsdm.lm.train import train

OUTPUT = "loglik"
STEP_ROWS = 64
"""Candidates that the forward step is set on."""


class TokenRows:
    """Rows of one length."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row."""
        return np.full(len(self.tokens), self.tokens.shape[1])

    def row(self, index: int) -> Row:
        """The row at `index`."""
        return Row(self.tokens[index])


def mean_direction(model: torch.nn.Module, targets: np.ndarray, batch_tokens: int) -> Direction:
    """The targets' mean gradient; biases stay where they are, as most peers leave them."""
    layers = linear_layers(model)
    names = [name for layer in layers for name in layer.parameter_names]
    gradient = mean_gradient(model, TokenRows(targets), OUTPUT, names, batch_tokens=batch_tokens)
    for layer in layers:
        if layer.bias_name is not None:
            gradient[layer.bias_name].zero_()
    return Direction(gradient, "gradient", "mix", "bench")


def _plain_forward(job: Job) -> Method:
    """The model's own forward pass, from ids to logits, without a loss, in the fastest batches."""
    model, config = load_saved(job.folder / "model"), _config(job)
    batch_tokens = forward_tokens(config, model.device)

    def score(candidates: np.ndarray) -> None:
        with torch.inference_mode(), autocast(model.device, config.precision):
            for _, batch in iter_batches(TokenRows(candidates), batch_tokens):
                model(input_ids=batch.inputs, use_cache=False).logits[0, 0, 0].item()

    return Method(score)


def _training_step(job: Job) -> Method:
    """Optimizer steps over the rows: forward, backward, AdamW."""
    model = load_saved(job.folder / "model")
    config = TrainConfig(precision=job.precision, checkpoint_seconds=float("inf"), lr=1e-6)

    def score(candidates: np.ndarray) -> None:
        with tempfile.TemporaryDirectory() as work:
            order = np.arange(len(candidates))
            train(model, TokenRows(candidates), order, config, work=Path(work))

    return Method(score)


def _forward(job: Job) -> Method:
    model, config = load_saved(job.folder / "model"), _config(job)
    direction = mean_direction(model, job.targets, config.batch_tokens)
    step = calibrate(
        model, direction, TokenRows(job.candidates[:STEP_ROWS]), OUTPUT, config
    ).forward.step

    def score(candidates: np.ndarray) -> np.ndarray:
        return score_forward(model, direction, TokenRows(candidates), OUTPUT, step, config)

    return Method(score)


def _backward(job: Job) -> Method:
    model, config = load_saved(job.folder / "model"), _config(job)
    direction = mean_direction(model, job.targets, config.batch_tokens)

    def score(candidates: np.ndarray) -> np.ndarray:
        return score_backward(model, [direction], TokenRows(candidates), OUTPUT, config)[:, 0]

    return Method(score)


def _config(job: Job) -> ScoresConfig:
    batch_tokens = job.batch_rows * job.candidates.shape[1]
    return ScoresConfig(precision=job.precision, batch_tokens=batch_tokens)


METHODS: dict[str, Callable[[Job], Method]] = {
    "plain": _plain_forward,
    "training": _training_step,
    "forward": _forward,
    "backward": _backward,
}
