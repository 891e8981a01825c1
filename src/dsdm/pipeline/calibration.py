"""How fast this machine is with the model of an experiment, and how much memory it takes."""

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from transformers import PreTrainedModel

from dsdm.data.sequences import Row, Rows, Subset
from dsdm.datamodel.gradients import linear_layers, mean_gradient
from dsdm.evaluation.evaluate import example_losses
from dsdm.experiment import Experiment
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import flops_per_token
from dsdm.lm.train import train

TRAIN_SECONDS = 9.0
PASS_SECONDS = 3.0
EIGH_SIZE = 384


@dataclass(frozen=True)
class LayerSizes:
    """Multiply-adds and numbers that the linear layers come to."""

    weights: int
    """Sum of d_in x d_out."""
    squares: int
    """Sum of d_in^2 + d_out^2."""
    cubes: float
    """Sum of d_in^3 + d_out^3."""
    widths: int
    """Sum of d_in + d_out."""
    largest: int
    """Largest d_in x d_out."""
    count: int


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
    work: Path,
) -> Speed:
    """What the model does in a second on rows of these lengths; takes about half a minute.

    Args:
        model: On the device where it will run.
        vocab_size: The tokenizer's.
        row_lengths: Tokens in each of some typical rows.
        experiment: Batch sizes and precisions.
        work: A folder for what training writes.
    """
    rows = RandomRows(row_lengths, vocab_size)
    training = _time_training(model, rows, experiment.proxies.train, work)
    directions, scores = experiment.directions, experiment.scores
    layers = linear_layers(model)
    names = [name for layer in layers for name in layer.parameter_names]

    def gradient(part: Rows) -> None:
        mean_gradient(
            model,
            part,
            directions.output,
            names,
            batch_tokens=directions.batch_tokens,
            precision=directions.precision,
        )

    def forward(part: Rows) -> None:
        example_losses(model, part, batch_tokens=scores.batch_tokens, precision=scores.precision)

    return Speed(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=_layer_sizes(model),
        vocab_size=vocab_size,
        train=training.rate,
        gradient=_pass_rate(gradient, rows, directions.batch_tokens, model.device),
        forward=_pass_rate(forward, rows, scores.batch_tokens, model.device),
        eigh_seconds=_eigh_seconds(model.device),
        flops_a_token=flops_per_token(model, int(row_lengths.max())),
        base_bytes=training.base_bytes,
        activation_bytes=training.activation_bytes,
    )


def peak_bytes(device: torch.device) -> float:
    """The most memory that this process has held, on the device where that is a GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


@dataclass(frozen=True)
class _Training:
    rate: float
    base_bytes: float
    activation_bytes: float


def _time_training(
    model: PreTrainedModel, rows: RandomRows, config: TrainConfig, work: Path
) -> _Training:
    """Steps of one row first, then as large as they will be, if that takes only some seconds."""
    config = msgspec.structs.replace(config, checkpoint_seconds=math.inf, lr=0.0)

    def steps(count: int, step_tokens: int) -> tuple[float, int]:
        order = _some_rows(rows, count * step_tokens)
        small = msgspec.structs.replace(config, batch_tokens=step_tokens)
        seconds = _timed(lambda: _train(model, rows, order, small, work), model.device)
        return seconds, int(rows.lengths[order].sum())

    row_tokens = int(rows.lengths.max())
    steps(1, row_tokens)
    small_peak = peak_bytes(model.device)
    seconds, tokens = steps(1, row_tokens)
    affordable = int(TRAIN_SECONDS / 3 * tokens / seconds)
    step_tokens = max(row_tokens, min(config.batch_tokens, affordable))
    seconds, tokens = steps(1, step_tokens)
    more_tokens = min(step_tokens, config.micro_batch_tokens) - row_tokens
    activations = max(0.0, peak_bytes(model.device) - small_peak) / max(1, more_tokens)
    seconds, tokens = steps(int(np.clip(TRAIN_SECONDS / 2 / seconds, 1, 20)), step_tokens)
    # Weights, their gradients and AdamW's two moments.
    held = 16 * sum(p.numel() for p in model.parameters()) + activations * row_tokens
    return _Training(tokens / seconds, max(0.0, small_peak - held), activations)


def _train(
    model: PreTrainedModel, rows: Rows, order: np.ndarray, config: TrainConfig, work: Path
) -> None:
    train(model, rows, order, config, work=work)


def _pass_rate(
    run: Callable[[Rows], None], rows: RandomRows, batch_tokens: int, device: torch.device
) -> float:
    """Tokens a second of a pass over whole batches, after one to warm up."""
    small = Subset(rows, _some_rows(rows, int(rows.lengths.max())))
    run(small)
    seconds = _timed(lambda: run(small), device)
    affordable = int(PASS_SECONDS * small.lengths.sum() / seconds)
    part = Subset(rows, _some_rows(rows, min(2 * batch_tokens, affordable)))
    return float(part.lengths.sum() / _timed(lambda: run(part), device))


def _some_rows(rows: Rows, tokens: int) -> np.ndarray:
    """Row numbers, in turn, of `tokens` tokens at least."""
    repeats = math.ceil(tokens / rows.lengths.sum())
    order = np.tile(np.arange(len(rows.lengths)), repeats)
    return order[: 1 + int(np.searchsorted(np.cumsum(rows.lengths[order]), tokens))]


def _timed(run: Callable[[], None], device: torch.device) -> float:
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

    def decompose() -> None:
        torch.linalg.eigh(matrix)

    return _timed(decompose, device) / EIGH_SIZE**3


def _layer_sizes(model: PreTrainedModel) -> LayerSizes:
    sizes = [(layer.d_in, layer.d_out) for layer in linear_layers(model)]
    return LayerSizes(
        weights=sum(i * o for i, o in sizes),
        squares=sum(i * i + o * o for i, o in sizes),
        cubes=float(sum(i**3 + o**3 for i, o in sizes)),
        widths=sum(i + o for i, o in sizes),
        largest=max(i * o for i, o in sizes),
        count=len(sizes),
    )
