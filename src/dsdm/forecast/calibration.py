"""How fast this machine is with the model of an experiment, and how much memory it takes."""

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from dsdm.data.batches import iter_batches
from dsdm.data.sequences import Row, Rows, Subset
from dsdm.datamodel.gradients import mean_gradient
from dsdm.evaluation.losses import example_losses
from dsdm.experiment import Experiment
from dsdm.learners.causal_lm import CPU_TOKENS, CausalLM
from dsdm.learners.layers import Layer
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import flops_per_token
from dsdm.lm.outputs import token_outputs
from dsdm.precision import autocast

PASS_SECONDS = 4.0
"""The most to spend on one kind of pass, where a few rows don't take longer."""
MIN_ROWS = 4
EIGH_SIZE = 384


@dataclass(frozen=True)
class Shape:
    """One layer's."""

    d_in: int
    d_out: int
    is_table: bool
    is_head: bool


@dataclass(frozen=True)
class LayerSizes:
    """Multiply-adds and numbers that the layers which directions move come to."""

    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> "LayerSizes":
        """Without their weights."""
        return cls(tuple(Shape(la.d_in, la.d_out, la.is_table, la.is_head) for la in layers))

    @property
    def _decomposed(self) -> list[int]:
        """The widths of what is decomposed: both sides, but never a table's vocabulary."""
        return [n for la in self.shapes for n in (la.d_in, 0 if la.is_table else la.d_out)]

    @property
    def weights(self) -> int:
        """Sum of d_in x d_out."""
        return sum(la.d_in * la.d_out for la in self.shapes)

    @property
    def squares(self) -> int:
        """Sum of d_in^2 + d_out^2."""
        return sum(n**2 for n in self._decomposed)

    @property
    def cubes(self) -> float:
        """Sum of d_in^3 + d_out^3."""
        return float(sum(n**3 for n in self._decomposed))

    @property
    def widths(self) -> int:
        """Sum of d_in + d_out."""
        return sum(la.d_in + la.d_out for la in self.shapes)

    @property
    def largest(self) -> int:
        """Largest d_in x d_out."""
        return max(la.d_in * la.d_out for la in self.shapes)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.shapes)


@dataclass(frozen=True)
class Speed:
    """Measured on random rows. Tokens a second."""

    parameters: int
    layers: LayerSizes
    vocab_size: int
    train: float
    """Forward, backward and optimizer."""
    gradient: float
    """Forward and backward in the directions' precision."""
    forward: float
    """In the scores' precision."""
    eigh_seconds: float
    """One eigendecomposition for each n^3, in fp64."""
    flops_a_token: float
    """Of one forward pass."""
    base_bytes: float
    """Memory before there is a model."""
    activation_bytes: float
    """For each token of a training batch."""


class RandomRows:
    """Rows of random tokens; implements `Rows`."""

    def __init__(self, lengths: np.ndarray, vocab_size: int) -> None:
        self._lengths = lengths
        self._vocab_size = vocab_size

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        return self._lengths

    def row(self, index: int) -> Row:
        """The row at `index`."""
        rng = np.random.default_rng(index)
        return Row(rng.integers(0, self._vocab_size, int(self._lengths[index])))


def measure_speed(
    model: PreTrainedModel,
    vocab_size: int,
    row_lengths: np.ndarray,
    experiment: Experiment,
    base_bytes: float,
) -> Speed:
    """What the model does in a second on rows of these lengths; takes about half a minute.

    Args:
        model: On the device where it will run.
        vocab_size: The tokenizer's.
        row_lengths: Tokens in each of some typical rows.
        experiment: Batch sizes and precisions.
        base_bytes: What `peak_bytes` was before there was a model.
    """
    rows = RandomRows(row_lengths, vocab_size)
    config, directions, scores = (
        experiment.proxies.train,
        experiment.directions,
        experiment.scores,
    )
    layers = moved_layers(model, embeddings=directions.embeddings)
    sizes = LayerSizes.of(layers)
    names = [name for layer in layers for name in layer.parameter_names]
    learner = CausalLM(model, directions.output, 0.0, directions.batch_tokens, directions.precision)
    gradient = partial(mean_gradient, learner, parameter_names=names)
    on_cpu = model.device.type == "cpu"
    batch_tokens = min(scores.batch_tokens, CPU_TOKENS) if on_cpu else scores.batch_tokens
    forward = partial(example_losses, model, batch_tokens=batch_tokens, precision=scores.precision)
    training = _time_passes(partial(_backward, model, config), rows, config.batch_tokens, model)
    step_seconds = config.batch_tokens / training.rate + _optimizer_seconds(model, config)
    return Speed(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=sizes,
        vocab_size=vocab_size,
        train=config.batch_tokens / step_seconds,
        gradient=_time_passes(gradient, rows, 2 * directions.batch_tokens, model).rate,
        forward=_time_passes(forward, rows, 2 * batch_tokens, model).rate,
        eigh_seconds=_eigh_seconds(model.device),
        flops_a_token=flops_per_token(model, int(row_lengths.max())),
        base_bytes=base_bytes,
        # Inputs and outputs of the layers, where nothing was measured.
        activation_bytes=training.activation_bytes or 4.0 * sizes.widths,
    )


def peak_bytes(device: torch.device) -> float:
    """The most memory that this process has held, on the device where that is a GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


@dataclass(frozen=True)
class _Timed:
    rate: float
    """Tokens a second."""
    activation_bytes: float
    """That a token more took; 0 where that can't be told."""


def _time_passes(
    run: Callable[[Rows], object], rows: RandomRows, max_tokens: int, model: PreTrainedModel
) -> _Timed:
    """The speed of `run` on as many tokens as it will get, if that takes only some seconds."""
    row = Subset(rows, np.array([int(rows.lengths.argmax())]))
    row_tokens = int(row.lengths.sum())
    run(row)
    seconds = _timed(partial(run, row), model.device)
    affordable = min(max_tokens, int(PASS_SECONDS * row_tokens / seconds))
    if affordable < MIN_ROWS * row_tokens:
        return _Timed(row_tokens / seconds, 0.0)
    part = Subset(rows, _some_rows(rows, affordable))
    peak = peak_bytes(model.device)
    seconds = _timed(partial(run, part), model.device)
    tokens = int(part.lengths.sum())
    grown = max(0.0, peak_bytes(model.device) - peak) / (tokens - row_tokens)
    return _Timed(tokens / seconds, grown)


def _backward(model: PreTrainedModel, config: TrainConfig, rows: Rows) -> None:
    """Gradients of all weights, as in a step of `lm.train`."""
    for _, batch in iter_batches(rows, config.micro_batch_tokens):
        with autocast(model.device, config.precision):
            values = token_outputs(model, batch.to(model.device), "loglik")
        values.mean().backward()


def _optimizer_seconds(model: PreTrainedModel, config: TrainConfig) -> float:
    """Seconds of one step of AdamW and its clipping, for gradients that are there."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()

    step()
    seconds = _timed(step, model.device)
    optimizer.zero_grad()
    return seconds


def _some_rows(rows: Rows, tokens: int) -> np.ndarray:
    """Row numbers, in turn, of `tokens` tokens at least."""
    repeats = math.ceil(tokens / rows.lengths.sum())
    order = np.tile(np.arange(len(rows.lengths)), repeats)
    return order[: 1 + int(np.searchsorted(np.cumsum(rows.lengths[order]), tokens))]


def _timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - start, 1e-6)


def _eigh_seconds(device: torch.device) -> float:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(EIGH_SIZE, EIGH_SIZE, dtype=torch.float64, generator=generator)
    matrix = (matrix + matrix.T).to(device)

    return _timed(partial(torch.linalg.eigh, matrix), device) / EIGH_SIZE**3
