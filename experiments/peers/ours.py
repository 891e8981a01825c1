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
from dsdm.datamodel.calibrate import calibrate
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.gradients import mean_gradient
from dsdm.datamodel.scoring import score_backward, score_forward
from dsdm.learners.causal_lm import CPU_TOKENS, CausalLM
from dsdm.learners.lm_layers import linear_layers
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import load_saved
from dsdm.lm.train import train
from dsdm.precision import autocast

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


def mean_direction(learner: CausalLM, targets: np.ndarray) -> Direction:
    """The targets' mean gradient; biases stay where they are, as most peers leave them."""
    layers = linear_layers(learner.model)
    names = [name for layer in layers for name in layer.parameter_names]
    gradient = mean_gradient(learner.using(precision="float32"), TokenRows(targets), names)
    for layer in layers:
        if layer.bias_name is not None:
            gradient[layer.bias_name].zero_()
    return Direction(gradient, "gradient", "mix", "bench")


def _plain_forward(job: Job) -> Method:
    """The model's own forward pass, from ids to logits, without a loss, in the fastest batches."""
    learner = _learner(job)
    model = learner.model
    batch_tokens = min(learner.batch_tokens, CPU_TOKENS)

    def score(candidates: np.ndarray) -> None:
        with torch.inference_mode(), autocast(model.device, learner.precision):
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
    learner = _learner(job)
    direction = mean_direction(learner, job.targets)
    rows = TokenRows(job.candidates[:STEP_ROWS])
    step = calibrate(learner, direction, rows, ScoresConfig()).forward.step

    def score(candidates: np.ndarray) -> np.ndarray:
        return score_forward(learner, direction, TokenRows(candidates), step)

    return Method(score)


def _backward(job: Job) -> Method:
    learner = _learner(job)
    direction = mean_direction(learner, job.targets)

    def score(candidates: np.ndarray) -> np.ndarray:
        return score_backward(learner, [direction], TokenRows(candidates))[:, 0]

    return Method(score)


def _learner(job: Job) -> CausalLM:
    batch_tokens = job.batch_rows * job.candidates.shape[1]
    model = load_saved(job.folder / "model")
    return CausalLM(model, OUTPUT, 0.0, batch_tokens, job.precision)


METHODS: dict[str, Callable[[Job], Method]] = {
    "plain": _plain_forward,
    "training": _training_step,
    "forward": _forward,
    "backward": _backward,
}
