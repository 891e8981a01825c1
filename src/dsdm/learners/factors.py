"""The two factors of each example's gradient in a linear layer, recorded by hooks.

A linear layer y = W x + b has, for one example, the gradient sum_t g_t [x_t; 1]^T over the
positions t at which the example goes through it, where g_t is the gradient in its output.
Everything that estimators and the backward scorer need of an example is a function of these two
factors; where they form the gradient, it is a layer's at a time.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdm.errors import ModelError
from dsdm.learners.layers import Layer
from dsdm.precision import at_least_float

FORMED_NUMBERS = 1 << 24
"""Numbers in the gradients of one layer that are formed at a time: 64 MiB in fp32."""
FORMED_ON_CPU = 1 << 22
"""The same on the CPU: 16 MiB, which stay in its cache until they are used."""

Uses = dict[str, list[tuple[Tensor, Tensor]]]
"""By layer name: the input and output gradient of each of its uses."""


@runtime_checkable
class Factors(Protocol):
    """What a batch's gradients in one layer are formed of."""

    def parts(self) -> Iterator["Factors"]:
        """The factors of a few examples at a time, few enough for their gradients to be formed."""

    def gradients(self) -> Float[Tensor, "batch d_out d_in"]:
        """Each example's gradient."""


@dataclass(frozen=True)
class LayerFactors:
    """The factors in a linear layer. One that is used n times has n times as many positions."""

    inputs: Float[Tensor, "batch positions d_in"]
    """With a last column of ones where the layer has a bias."""
    output_grads: Float[Tensor, "batch positions d_out"]
    present: Bool[Tensor, "batch positions"]
    """False at padding, whose input is arbitrary and whose output gradient is zero."""

    def parts(self) -> Iterator["LayerFactors"]:
        """The factors of a few examples at a time, few enough for their gradients to be formed."""
        count = examples_formed(self.inputs.shape[2] * self.output_grads.shape[2], self.inputs)
        fields = (self.inputs, self.output_grads, self.present)
        for part in zip(*(field.split(count) for field in fields), strict=True):
            yield LayerFactors(*part)

    def gradients(self) -> Float[Tensor, "batch d_out d_in"]:
        """Each example's gradient."""
        return self.output_grads.mT @ self.inputs


def examples_formed(numbers: int, like: Tensor) -> int:
    """How many examples' gradients of so many numbers are formed at a time."""
    limit = FORMED_ON_CPU if like.device.type == "cpu" else FORMED_NUMBERS
    return max(1, limit // numbers)


@contextlib.contextmanager
def recorded(layers: Sequence[Layer]) -> Iterator[Uses]:
    """Fills `Uses` by hooks, with the outputs that a backward pass reaches within the context.

    The gradient is taken by a hook on the output tensor: a full backward hook on the module breaks
    where the next operation works in place.
    """
    uses: Uses = {layer.name: [] for layer in layers}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            inputs = args[0].detach()
            if result.requires_grad:
                result.register_hook(lambda grad: uses[name].append((inputs, grad)))

        return record

    handles = [
        module.register_forward_hook(hook_for(layer.name))
        for layer in layers
        for module in layer.modules
    ]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def layer_factors(
    layer: Layer, uses: Sequence[tuple[Tensor, Tensor]], present: Bool[Tensor, "batch positions"]
) -> LayerFactors:
    """The factors in a linear layer, of all its uses; without any, of no position.

    Args:
        layer: The layer.
        uses: Input and output gradient, each of shape (batch, width) or (batch, positions, width).
        present: Which positions are no padding.

    Raises:
        ModelError: an output has another number of dimensions.
    """
    if not uses:
        weight = layer.modules[0].weight
        assert isinstance(weight, Tensor)
        empty = at_least_float(weight.detach()).new_zeros(len(present), 0, 1)
        widths = (layer.d_in, layer.d_out)
        inputs, output_grads = (empty.expand(-1, -1, width) for width in widths)
        return LayerFactors(inputs, output_grads, present[:, :0])
    num = len(present)
    pairs = [(_by_position(x, grad, num), _by_position(grad, grad, num)) for x, grad in uses]
    inputs = torch.cat([x for x, _ in pairs], 1)
    output_grads = torch.cat([grad for _, grad in pairs], 1)
    if layer.bias_name is not None:
        inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], 2)
    present = present.repeat(1, len(uses))
    return LayerFactors(at_least_float(inputs), at_least_float(output_grads), present)


def _by_position(
    tensor: Tensor, grad: Tensor, num_examples: int
) -> Float[Tensor, "batch positions width"]:
    if grad.ndim == 2 and len(grad) == num_examples:
        return tensor[:, None]
    if grad.ndim != 3:
        raise ModelError(
            f"a linear layer works on {tuple(grad.shape)}: only (batch, positions, width) can be "
            "told apart by example. Models that mix examples in one layer are not supported."
        )
    return tensor
