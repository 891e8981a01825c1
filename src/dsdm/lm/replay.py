"""A training followed backwards: how a function of its last weights depends on each step.

Each step's gradient enters the weights through AdamW, and the weights enter all later gradients.
The derivative of a function of the last weights in the gradient of step t is found by the chain
rule from the last step back to t, which needs the weights before each step, newest first. Where
these are small, as an adapter's are, all are kept. Else they are made again from states kept at
every sqrt(steps)-th step, so that 2 sqrt(steps) states are held at most and what is followed back
is trained twice.

REPLAY and MAGIC: Engstrom et al. 2025 (arXiv:2503.13751), Ilyas & Engstrom 2025 (arXiv:2504.16430).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from dsdm.data.batches import Batch, Rows, lengths_of
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import flops_per_token, training_passes
from dsdm.lm.outputs import differentiable_loglik
from dsdm.lm.schedule import kept_steps, learning_rate
from dsdm.lm.train import State, Trainer
from dsdm.precision import autocast

Tensors = Mapping[str, Tensor]

ADAM_EPSILON = 1e-8
STATE_BYTES = 12
"""Of one parameter: the weight and both of Adam's moments."""
KEPT_BYTES = 2**29
"""Up to which the states of all steps are kept."""


def keeps_all(num_steps: int | float, num_parameters: int | float) -> bool:
    """Whether the states before so many steps are kept, rather than made again."""
    return num_steps * num_parameters * STATE_BYTES <= KEPT_BYTES


def replay_passes(
    num_functions: int,
    tail: float = 1.0,
    *,
    training: float = 3.0,
    is_kept: bool = False,
    is_whole: bool = False,
) -> float:
    """What `train` and `influences` cost, in forward passes over the training's tokens.

    Args:
        num_functions: That are followed back.
        tail: Share of the training that is followed back.
        training: Passes of one training: fewer than 3 where weights are frozen.
        is_kept: Whether all states are kept; else the tail is trained again.
        is_whole: Whether a step is one micro-batch; else its gradient is needed before the ones
            that can be differentiated.
    """
    gradients = 1.0 + (not is_kept) + (not is_whole)
    return training * (1.0 + tail * (gradients + 4 / 3 * num_functions))


@dataclass(frozen=True)
class Influence:
    """What one step of a training did to several functions of its last weights."""

    step: int
    """Steps that were taken before it."""
    counted: int
    """Tokens that the step's loss is the mean of."""
    derivatives: Sequence[Tensors]
    """For each function, its derivative in the gradient of the step's loss, by parameter name."""


class Replay:
    """A training that can be followed backwards, as `lm.train.train` did it."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Rows,
        order: np.ndarray,
        config: TrainConfig,
        *,
        tail: float = 1.0,
        smoothing: float = 0.0,
    ) -> None:
        """The training of `model`, as it is before the first step, on `rows` in the given order.

        Args:
            model: On the device where it is to be trained.
            rows: Where the tokens are.
            order: Row indices, in the order of training.
            config: Optimizer, schedule and batch.
            tail: Share of the steps, the last ones, that are followed back.
            smoothing: Above 0, Adam's step is differentiated as if it added so much of each
                parameter's mean second moment, held fixed, to all of its second moments. Adam
                itself moves a weight whose gradient was always 0 by the whole learning rate as
                soon as there is the least one: its derivative says nothing of what a row does.
        """
        self._trainer = Trainer(model, rows, order, config)
        self._smoothing = smoothing
        self.first_step = min(round((1 - tail) * self.num_steps), self.num_steps - 1)
        self._kept: list[State] = []

    @property
    def num_steps(self) -> int:
        """Steps of the training."""
        return len(self._trainer.steps)

    @property
    def num_tokens(self) -> int:
        """Tokens that it is trained on."""
        return int(lengths_of(self._trainer.rows, self._trainer.order).sum())

    @property
    def longest(self) -> int:
        """Tokens in its longest row."""
        return int(lengths_of(self._trainer.rows, self._trainer.order).max())

    def checkpoints(self, count: int) -> list[int]:
        """The steps after which each of `count` checkpoints at equal distances is."""
        return kept_steps(self.num_steps, count)

    def train(self, advance: Callable[[int], None] = lambda tokens: None) -> PreTrainedModel:
        """Runs the training; returns its model, which is moved on by what is called next."""
        trainer = self._trainer
        every = 1 if self._keeps_all() else math.ceil(math.sqrt(self.num_steps - self.first_step))
        trainer.model.train()
        while trainer.step < self.num_steps:
            followed = trainer.step - self.first_step
            if followed >= 0 and followed % every == 0:
                self._kept.append(trainer.state())
            advance(trainer.take_step())
        trainer.model.eval()
        return trainer.model

    def influences(
        self, gradients: Sequence[Tensors], advance: Callable[[int], None] = lambda tokens: None
    ) -> Iterator[Influence]:
        """The influence of every step of the tail, the last one first; `train` comes before.

        Args:
            gradients: For each function its gradient in the last weights, in all that were trained.
            advance: Called with the tokens of each step that was followed back.
        """
        later = [_Adjoint.of(gradient) for gradient in gradients]
        for state in self._states_backwards():
            influence, later = self._step_back(state, later)
            yield influence
            part = self._trainer.rows_of(state.step)
            advance(int(lengths_of(self._trainer.rows, part).sum()))

    def passes(self, num_functions: int) -> float:
        """What `train` and `influences` cost, in forward passes over the training's tokens."""
        trainer = self._trainer
        first, _ = trainer.micro_batches(trainer.rows_of(0))
        return replay_passes(
            num_functions,
            1 - self.first_step / self.num_steps,
            training=training_passes(trainer.model),
            is_kept=self._keeps_all(),
            is_whole=len(first) == 1,
        )

    def flops(self, num_functions: int) -> float:
        """FLOPs of `train` and `influences`."""
        model, longest = self._trainer.model, self.longest
        return self.passes(num_functions) * self.num_tokens * flops_per_token(model, longest)

    def _keeps_all(self) -> bool:
        size = sum(parameter.numel() for _, parameter in self._trainer.trained())
        return keeps_all(self.num_steps - self.first_step, size)

    def _states_backwards(self) -> Iterator[State]:
        """The state before each step, the last one first."""
        end = self.num_steps
        for kept in reversed(self._kept):
            self._trainer.go_back(kept)
            states = [kept]
            while self._trainer.step < end - 1:
                self._trainer.take_step()
                states.append(self._trainer.state())
            yield from reversed(states)
            end = kept.step

    def _step_back(
        self, state: State, later: list["_Adjoint"]
    ) -> tuple[Influence, list["_Adjoint"]]:
        trainer, config = self._trainer, self._trainer.config
        trainer.go_back(state)
        part = trainer.rows_of(state.step)
        batches, counted = trainer.micro_batches(part)
        graph = self._gradient(batches[0], counted) if len(batches) == 1 else None
        gradient = self._plain_gradient(part) if graph is None else _detached(graph)
        update = _Update(config, state, gradient, self.num_steps, self._smoothing)
        found = [update.back(adjoint) for adjoint in later]
        derivatives = [one[0] for one in found]
        for batch in batches:
            curved = self._hessian_products(graph or self._gradient(batch, counted), derivatives)
            for (_, adjoint), product in zip(found, curved, strict=True):
                adjoint.add_to_weights(product)
        return Influence(state.step, counted, derivatives), [one[1] for one in found]

    def _plain_gradient(self, part: np.ndarray) -> dict[str, Tensor]:
        """Of a step's loss, fp64."""
        trainer = self._trainer
        trainer.backward(part)
        gradient = {
            name: torch.zeros_like(p).double() if p.grad is None else p.grad.double()
            for name, p in trainer.trained()
        }
        trainer.optimizer.zero_grad()
        return gradient

    def _gradient(self, batch: Batch, counted: int) -> dict[str, Tensor]:
        """Of the batch's part of a step's loss, such that it can be differentiated."""
        trainer = self._trainer
        names, parameters = zip(*trainer.trained(), strict=True)
        with self._differentiable():
            loss = -differentiable_loglik(trainer.model, batch.to(trainer.device))
            gradients = torch.autograd.grad(
                loss / counted, parameters, create_graph=True, materialize_grads=True
            )
        return dict(zip(names, gradients, strict=True))

    def _hessian_products(self, gradient: Tensors, vectors: Sequence[Tensors]) -> Iterator[Tensors]:
        """The Hessian whose gradient this is, times each vector."""
        names, parameters = zip(*self._trainer.trained(), strict=True)
        with self._differentiable():
            for number, vector in enumerate(vectors):
                products = torch.autograd.grad(
                    [gradient[name] for name in names],
                    parameters,
                    [vector[name].to(gradient[name]) for name in names],
                    retain_graph=number + 1 < len(vectors),
                    materialize_grads=True,
                )
                yield dict(zip(names, products, strict=True))

    @contextlib.contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Only the plain attention kernel has a second derivative."""
        trainer = self._trainer
        with (
            sdpa_kernel(SDPBackend.MATH),
            autocast(trainer.device, trainer.config.precision),
        ):
            yield


def _detached(gradient: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().double() for name, tensor in gradient.items()}


@dataclass(frozen=True)
class _Adjoint:
    """The derivatives of one function in a training's state, fp64, by parameter name."""

    weights: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]

    @classmethod
    def of(cls, gradient: Tensors) -> "_Adjoint":
        """Of a function of the weights alone."""
        weights = {name: tensor.detach().double() for name, tensor in gradient.items()}
        zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        return cls(weights, dict(zeros), dict(zeros))

    def add_to_weights(self, tensors: Tensors) -> None:
        """Adds what reaches the weights through the step's gradient."""
        for name, tensor in tensors.items():
            self.weights[name] = self.weights[name] + tensor.double()


class _Update:
    """One step of clipped AdamW, and its derivatives in what goes in."""

    def __init__(
        self,
        config: TrainConfig,
        state: State,
        gradient: Tensors,
        num_steps: int,
        smoothing: float,
    ) -> None:
        self.config = config
        self.smoothing = smoothing
        self.rate = learning_rate(config, state.step, num_steps)
        (b1, b2), steps = config.betas, state.step + 1
        self.corrections = 1 - b1**steps, 1 - b2**steps
        self.norm = float(torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt())
        self.clipping = min(1.0, config.max_grad_norm / (self.norm + 1e-6))
        self.gradient = gradient
        self.first = {
            n: b1 * state.first[n].double() + (1 - b1) * self.clipping * g
            for n, g in gradient.items()
        }
        self.second = {
            n: b2 * state.second[n].double() + (1 - b2) * (self.clipping * g).square()
            for n, g in gradient.items()
        }

    def back(self, later: _Adjoint) -> tuple[dict[str, Tensor], _Adjoint]:
        """From derivatives in the state after the step: in its gradient, in the state before.

        The latter without what goes through the gradient.
        """
        (b1, b2), decay = self.config.betas, self.config.weight_decay
        clipped, before = {}, _Adjoint({}, {}, {})
        for name, gradient in self.gradient.items():
            weights = later.weights[name]
            first, second = self._moments_back(name, weights)
            first, second = later.first[name] + first, later.second[name] + second
            clipped[name] = (1 - b1) * first + (1 - b2) * 2 * self.clipping * gradient * second
            # Vectors are not decayed.
            shrink = 1 - self.rate * decay if weights.ndim >= 2 else 1.0
            before.weights[name] = shrink * weights
            before.first[name], before.second[name] = b1 * first, b2 * second
        return self._unclipped(clipped), before

    def _moments_back(self, name: str, weights: Tensor) -> tuple[Tensor, Tensor]:
        """What the weights' derivatives are in the moments that moved them."""
        of_first, of_second = self.corrections
        second = self.second[name] / of_second
        root = (second + self.smoothing * second.mean()).sqrt()
        below = root + ADAM_EPSILON
        first = weights * (-self.rate / of_first) / below
        moved = weights * (self.rate / of_first) * self.first[name] / below.square()
        # Where there was never a gradient, the root has no derivative and nothing moves.
        return first, torch.where(root > 0, moved / (2 * of_second * root), 0.0)

    def _unclipped(self, derivatives: dict[str, Tensor]) -> dict[str, Tensor]:
        """Through the clipping of the gradient to a norm."""
        if self.clipping == 1.0:
            return derivatives
        along = sum(float((derivatives[n] * g).sum()) for n, g in self.gradient.items())
        slope = along * self.clipping / ((self.norm + 1e-6) * self.norm)
        return {n: self.clipping * derivatives[n] - slope * g for n, g in self.gradient.items()}
