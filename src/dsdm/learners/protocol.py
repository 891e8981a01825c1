"""What directions are estimated and scores computed with: a model that reads examples.

A new modality is a new learner: only its batches, its outputs and the sizes of its examples are its
own, and a model of plain linear layers needs no more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsdm.learners.factors import Factors, layer_factors, recorded
from dsdm.learners.layers import Layer, layers_of
from dsdm.precision import Precision

Examples = Any
"""Examples as a learner reads them; nothing else looks into them."""
Batch = Any
"""Some examples on the model's device; nothing but the learner looks into it."""
Tensors = Mapping[str, Tensor]
"""By parameter name."""


@runtime_checkable
class Learner(Protocol):
    """A model and how it reads examples. It owns its model and leaves its weights as they are.

    An example's output f(x) is one number, higher = better, as the log-likelihood of its label.
    """

    model: nn.Module
    precision: Precision
    """Of all passes but those of `plain_outputs`."""

    def num(self, examples: Examples) -> int:
        """How many examples there are."""
        ...

    def sizes(self, examples: Examples) -> Int[np.ndarray, " examples"]:
        """What each example counts for in costs, such as its tokens."""
        ...

    def take(self, examples: Examples, indices: Int[np.ndarray, " taken"]) -> Examples:
        """Some of the examples, in the order of `indices`."""
        ...

    def batches(
        self, examples: Examples, *, forward_only: bool = False
    ) -> Iterator[tuple[Int[np.ndarray, " batch"], Batch]]:
        """All examples once: the indices of each batch, and the batch on the model's device.

        Args:
            examples: The examples.
            forward_only: Whether no gradients are taken, which may allow other batches.
        """
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """The output of each example, differentiable in every parameter of `model`.

        Args:
            model: The learner's own, or a copy of it with other weights.
            batch: Of `batches`.
        """
        ...

    def target_outputs(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """What directions raise: the same, unless targets' examples count in another way."""
        return self.outputs(model, batch)

    def plain_outputs(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """`outputs` with a derivative in forward mode, in the weights' own precision."""
        return self.outputs(model, batch)

    def layers(self) -> list[Layer]:
        """All layers that directions may move: the linear ones, and tables."""
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        return layers_of(self.model, linear)

    def factors(self, batch: Batch, layers: Sequence[Layer]) -> dict[str, Factors]:
        """The factors of each example's output gradient, by layer name.

        One forward and one backward pass; the model is left as it was.
        """
        with recorded(layers) as uses:
            outputs = self.outputs(self.model, batch)
            trained = [p for p in self.model.parameters() if p.requires_grad]
            # The hooks see the outputs' gradients; those of the weights are dropped.
            torch.autograd.grad(outputs.sum(), trained, materialize_grads=True)
        present = torch.ones(len(outputs), 1, dtype=torch.bool, device=outputs.device)
        factors: dict[str, Factors] = {}
        for layer in layers:
            used = uses[layer.name]
            positions = used[0][1].shape[1] if used and used[0][1].ndim == 3 else 1
            factors[layer.name] = layer_factors(layer, used, present.expand(-1, positions))
        return factors

    def sampled(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with labels drawn from the model's own predictions."""
        raise NotImplementedError(f"{type(self).__name__} draws no labels of its own")

    def using(
        self, *, model: nn.Module | None = None, precision: Precision | None = None
    ) -> "Learner":
        """The same learner with another model or in another precision."""
        ...

    def pass_flops(self, largest: int) -> float:
        """FLOPs of one forward pass for each unit of an example's size.

        Args:
            largest: The size of the largest example.
        """
        return 2.0 * sum(parameter.numel() for parameter in self.model.parameters())

    def gradient_passes(self) -> float:
        """What a gradient in all trained weights costs in forward passes."""
        return 3.0


@runtime_checkable
class Influence(Protocol):
    """What one step of a training did to several functions of its last weights."""

    @property
    def step(self) -> int:
        """Steps that were taken before it."""
        ...

    @property
    def counted(self) -> int:
        """What the step's loss is the mean over."""
        ...

    @property
    def derivatives(self) -> Sequence[Tensors]:
        """For each function, its derivative in the gradient of the step's loss."""
        ...


@runtime_checkable
class Replay(Protocol):
    """A training that can be followed backwards."""

    first_step: int
    """The first of the steps that are followed back."""

    @property
    def num_steps(self) -> int:
        """Steps of the training."""
        ...

    def checkpoints(self, count: int) -> list[int]:
        """The steps after which each of `count` checkpoints at equal distances is."""
        ...

    def train(self, advance: Callable[[int], None]) -> nn.Module:
        """Runs the training; returns its model, which `influences` moves on."""
        ...

    def influences(
        self, gradients: Sequence[Tensors], advance: Callable[[int], None]
    ) -> Iterator[Influence]:
        """The influence of every step that is followed back, the last one first.

        Args:
            gradients: For each function its gradient in the last weights, in all trained ones.
            advance: Called with what each step was trained on.
        """
        ...

    def flops(self, num_functions: int) -> float:
        """FLOPs of `train` and `influences`."""
        ...


@dataclass(frozen=True)
class Training:
    """The training that led to a proxy, for estimators that follow it back."""

    replay: Callable[[float, float], Replay]
    """The training before its first step, given the share of its steps, the last ones, that are
    followed back, and the smoothing of Adam's second moments."""
    num_checkpoints: int = 1
    """Checkpoints at equal distances that directions are estimated at."""
