"""Training a model on rows of tokens: AdamW, warm-up, cosine decay, clipping; resumes anywhere."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.artifacts import (
    MANIFEST,
    check_contents,
    disk_errors,
    load_manifest,
    restore,
    write_json,
    writing,
)
from dsdm.config import differences
from dsdm.data.batches import IGNORED, Batch, Rows, collate, lengths_of, plan_batches
from dsdm.errors import ArtifactError, NumericalError
from dsdm.lm.config import TrainConfig, training_content
from dsdm.lm.model import (
    check_finite,
    flops_per_token,
    save_model,
    training_passes,
)
from dsdm.lm.moments import Moments, moments_of, save_moments
from dsdm.lm.outputs import summed_loglik
from dsdm.lm.schedule import learning_rate
from dsdm.precision import autocast

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TrainResult:
    """What a finished training did."""

    steps: int
    tokens: int
    flops: float
    seconds_before: float
    """Spent in earlier runs, where the training was interrupted."""
    metrics: list[dict[str, int | float]]
    moments: Moments | None
    """Adam's after the last step, where they are asked for."""


def epoch_order(indices: np.ndarray, epochs: float, seed: int) -> np.ndarray:
    """`indices` shuffled anew for each epoch, one after the other; the last may be a part."""
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(indices) for _ in range(math.ceil(epochs))]
    return np.concatenate(passes)[: round(len(indices) * epochs)]


def plan_steps(
    lengths: np.ndarray, batch_tokens: int, batch_rows: int | None = None
) -> list[slice]:
    """Runs of rows of about `batch_tokens` tokens each, covering all rows in their order.

    Of `batch_rows` rows each, where that is given.
    """
    sizes, size = lengths, batch_tokens
    if batch_rows is not None:
        sizes, size = np.ones(len(lengths), np.int64), batch_rows
    step_of_row = (np.cumsum(sizes, dtype=np.int64) - 1) // size
    starts = np.flatnonzero(np.diff(step_of_row, prepend=-1))
    ends = [*starts[1:], len(lengths)]
    return [slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def train(
    model: PreTrainedModel,
    rows: Rows,
    order: np.ndarray,
    config: TrainConfig,
    *,
    work: Path,
    fingerprint: str = "",
    kept: Mapping[int, Path] = MappingProxyType({}),
    keeps_moments: bool = False,
    advance: Callable[[int], None] = lambda tokens: None,
) -> TrainResult:
    """Trains `model` in place on `rows` in the given order, from the last checkpoint in `work`.

    Args:
        model: On the device where it is to be trained.
        rows: Where the tokens are.
        order: Row indices, in the order of training; a row may occur in several epochs.
        config: Optimizer, schedule and batch.
        work: Folder for checkpoints; it is the caller's to delete.
        fingerprint: Identifies what order and config don't: the model, its seed, the text.
        kept: Folders that the model is written to, by the step after which.
        keeps_moments: Whether Adam's moments are written there too, and returned.
        advance: Called with the tokens done since the last call.

    Raises:
        NumericalError: the loss or a weight became NaN or infinite.
        ArtifactError: the checkpoint in `work` belongs to another training.
    """
    trainer = Trainer(model, rows, order, config, work, fingerprint, kept, keeps_moments)
    trainer.resume()
    advance(trainer.tokens)
    model.train()
    while trainer.step < len(trainer.steps):
        advance(trainer.take_step())
    model.eval()
    check_finite(model)
    passes = training_passes(model)
    flops = passes * trainer.tokens * flops_per_token(model, int(lengths_of(rows, order).max()))
    return TrainResult(
        trainer.step,
        trainer.tokens,
        flops,
        trainer.seconds_before,
        trainer.metrics,
        trainer.moments() if keeps_moments else None,
    )


def forget(work: Path) -> None:
    """Deletes a training's checkpoints, in an order in which no part is taken for the whole."""
    (work / CHECKPOINT / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True)
class State:
    """Where a training stands: by parameter name, on the model's device."""

    step: int
    """Steps that were taken."""
    weights: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    """Adam's first moments; 0 of a parameter that has had no gradient."""
    second: Mapping[str, Tensor]


class Trainer:
    """One training, step by step; its state is what a checkpoint holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Rows,
        order: np.ndarray,
        config: TrainConfig,
        work: Path | None = None,
        fingerprint: str = "",
        kept: Mapping[int, Path] = MappingProxyType({}),
        keeps_moments: bool = False,
    ) -> None:
        """As `train`; without `work` there are no checkpoints."""
        self.model = model
        self.kept = kept
        self.keeps_moments = keeps_moments
        self.rows = rows
        self.order = order
        self.config = config
        self.content = training_content(config)
        self.checkpoint = None if work is None else work / CHECKPOINT
        self.steps = plan_steps(lengths_of(rows, order), config.batch_tokens, config.batch_rows)
        self.optimizer = _make_optimizer(model, config)
        self.device = next(model.parameters()).device
        steps = str(len(self.steps))
        self.inputs = {"training": fingerprint, "order": _digest(order), "steps": steps}
        self.step = 0
        self.tokens = 0
        self.metrics: list[dict[str, int | float]] = []
        self._losses: list[Tensor] = []
        self.seconds_before = 0.0
        self._start = self._saved = time.monotonic()

    def seconds(self) -> float:
        """Spent so far, in earlier runs too."""
        return self.seconds_before + time.monotonic() - self._start

    def take_step(self) -> int:
        """Trains on the next batch; returns its tokens."""
        part = self.rows_of(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, len(self.steps))
        self._losses.append(self.backward(part))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = int(lengths_of(self.rows, part).sum())
        self.step += 1
        self.tokens += tokens
        if self.step in self.kept:
            self._keep(self.kept[self.step])
        if self.step % 20 == 0 or self.step == len(self.steps):
            self._log()
            is_due = time.monotonic() - self._saved > self.config.checkpoint_seconds
            if self.checkpoint is not None and is_due:
                self.save(self.checkpoint)
        return tokens

    def rows_of(self, step: int) -> np.ndarray:
        """The row indices that a step trains on."""
        return self.order[self.steps[step]]

    def backward(self, part: np.ndarray) -> Tensor:
        """Adds the gradient of a step's loss to the parameters'; returns the loss."""
        batches, counted = self.micro_batches(part)
        loss = torch.zeros((), device=self.device)
        for batch in (batch.to(self.device) for batch in batches):
            with autocast(self.device, self.config.precision):
                micro_loss = -summed_loglik(self.model, batch) / counted
            micro_loss.backward()
            loss += micro_loss.detach()
        return loss

    def micro_batches(self, part: np.ndarray) -> tuple[list[Batch], int]:
        """What a step reads at a time, and the tokens that its loss is the mean of."""
        lengths = lengths_of(self.rows, part)
        batches = [
            collate([self.rows.row(int(i)) for i in part[indices]])
            for indices in plan_batches(lengths, self.config.micro_batch_tokens)
        ]
        # A step may hold nothing but a row of one token, which predicts nothing.
        return batches, max(1, sum(int((batch.labels != IGNORED).sum()) for batch in batches))

    def _log(self) -> None:
        loss = torch.stack(self._losses).mean().item()
        self._losses = []
        if not math.isfinite(loss):
            raise NumericalError(
                f"training: the loss is {loss} at step {self.step} of {len(self.steps)}. "
                f"Lower the learning rate (lr is {self.config.lr})."
            )
        lr = self.optimizer.param_groups[0]["lr"]
        self.metrics.append({"step": self.step, "tokens": self.tokens, "loss": loss, "lr": lr})

    def moments(self) -> Moments:
        """Adam's, as they are now; they change with the next step."""
        return moments_of(self.optimizer, self.trained(), self.step)

    def _keep(self, folder: Path) -> None:
        """Writes what a killed training writes again: it goes on from before, or has it whole."""
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save_model(self.model, folder)
            if self.keeps_moments:
                save_moments(self.moments(), folder)

    def state(self) -> State:
        """A copy of where the training stands."""
        weights = {name: p.detach().clone() for name, p in self.trained()}
        now = self.moments()
        first, second = (
            {n: m[n].clone() if n in m else torch.zeros_like(p) for n, p in weights.items()}
            for m in (now.first, now.second)
        )
        return State(self.step, weights, first, second)

    @torch.no_grad()
    def go_back(self, state: State) -> None:
        """Stands where it stood; tokens and losses are counted on."""
        self.step = state.step
        for name, parameter in self.trained():
            parameter.copy_(state.weights[name])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(state.step), device=parameter.device),
                "exp_avg": state.first[name].clone(),
                "exp_avg_sq": state.second[name].clone(),
            }

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that training moves, by name."""
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def save(self, checkpoint: Path) -> None:
        """Writes a checkpoint; the one before is replaced only once this one is whole."""
        with writing(checkpoint, config=self.content, inputs=self.inputs) as draft:
            weights = {name: p.detach() for name, p in self.trained()}
            save_file(
                {k: v.contiguous() for k, v in weights.items()}, draft.path / "weights.safetensors"
            )
            save_file(_optimizer_tensors(self.optimizer), draft.path / "optimizer.safetensors")
            progress = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds()}
            write_json(draft.path / "progress.json", {**progress, "metrics": self.metrics})
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Continues from the checkpoint, where there is one."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return
        with disk_errors(checkpoint):
            restore(checkpoint)
        manifest = load_manifest(checkpoint)
        if manifest is None:
            return
        changes = differences(manifest.config, self.content)
        changes += differences(manifest.inputs, self.inputs)
        if changes:
            raise ArtifactError(
                f"{checkpoint}: belongs to another training ({'; '.join(changes)}). "
                "Restore the old setting, or delete this folder to begin this training again."
            )
        check_contents(checkpoint)
        weights = load_file(checkpoint / "weights.safetensors")
        with torch.no_grad():
            for name, parameter in self.trained():
                parameter.copy_(weights[name])
        _load_optimizer(self.optimizer, load_file(checkpoint / "optimizer.safetensors"))
        progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
        self.step, self.tokens = progress["step"], progress["tokens"]
        self.metrics, self.seconds_before = progress["metrics"], progress["seconds"]


def _digest(order: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(order, np.int64).tobytes()).hexdigest()


def _make_optimizer(model: PreTrainedModel, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _optimizer_parameters(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{i}.{name}": value.contiguous()
        for i, parameter in enumerate(_optimizer_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = _optimizer_parameters(optimizer)
    for key, value in tensors.items():
        index, name = key.split(".")
        parameter = parameters[int(index)]
        optimizer.state[parameter][name] = value.to(parameter.device)
