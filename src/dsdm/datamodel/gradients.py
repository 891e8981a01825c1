"""Gradients of example outputs: mean gradients, and the two factors of each layer's.

A linear layer y = W x + b has, for one example, the gradient sum_t g_t [x_t; 1]^T, where g_t is the
gradient in its output at token t. Everything that estimators and the backward scorer need of an
example is a function of these two factors; where they form the gradient, it is a layer's at a time.

In a table of the vocabulary one factor is as wide as the vocabulary. For the embeddings it says
which token was read, for the output layer it is the gradient in the logits; it is never held for
more than a few examples.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsdm.data.batches import Batch, Rows, iter_batches, present_positions
from dsdm.datamodel.layers import Layer
from dsdm.errors import ModelError, NumericalError
from dsdm.lm.config import Output, Precision
from dsdm.lm.model import autocast
from dsdm.lm.outputs import (
    at_least_float,
    hidden_states,
    logit_gradients,
    mean_outputs,
    outputs_of_states,
    weighted_outputs,
)

FORMED_NUMBERS = 1 << 24
"""Numbers in the gradients of one layer that are formed at a time: 64 MiB in fp32."""
FORMED_ON_CPU = 1 << 22
"""The same on the CPU: 16 MiB, which stay in its cache until they are used."""


@dataclass(frozen=True)
class LayerFactors:
    """The factors of a batch's gradients in one layer. A layer used n times has n x seq tokens."""

    inputs: Float[Tensor, "batch tokens d_in"]
    """With a last column of ones where the layer has a bias."""
    output_grads: Float[Tensor, "batch tokens d_out"]
    present: Bool[Tensor, "batch tokens"]
    """False at padding, whose input is arbitrary and whose output gradient is zero."""

    def parts(self) -> "Iterator[LayerFactors]":
        """The factors of a few examples at a time, few enough for their gradients to be formed."""
        count = _examples_formed(self.inputs.shape[2] * self.output_grads.shape[2], self.inputs)
        fields = (self.inputs, self.output_grads, self.present)
        for part in zip(*(field.split(count) for field in fields), strict=True):
            yield LayerFactors(*part)

    def gradients(self) -> Float[Tensor, "batch d_out d_in"]:
        """Each example's gradient."""
        return self.output_grads.mT @ self.inputs


@dataclass(frozen=True)
class TableFactors:
    """What a batch's gradients in a table of the vocabulary are formed of.

    Tied embeddings have both kinds.
    """

    layer: Layer
    batch: Batch
    read: Float[Tensor, "batch seq width"] | None
    """The gradient in what each token's entry gave, where the table is the embeddings."""
    states: Float[Tensor, "batch seq width"] | None
    """What the output layer read, where the table is its weight."""
    logit_gradients: Callable[[Tensor, Batch], Float[Tensor, "batch seq vocab"]]
    """The gradient of each example's output in its logits, given those states."""

    def parts(self) -> "Iterator[TableFactors]":
        """The factors of a few examples at a time, few enough for their gradients to be formed."""
        batch = self.batch
        count = _examples_formed(self.layer.d_in * self.layer.d_out, batch.inputs)
        for start in range(0, len(batch.inputs), count):
            part = slice(start, start + count)
            yield TableFactors(
                self.layer,
                Batch(batch.inputs[part], batch.labels[part]),
                None if self.read is None else self.read[part],
                None if self.states is None else self.states[part],
                self.logit_gradients,
            )

    def gradients(self) -> Float[Tensor, "batch d_out d_in"]:
        """Each example's gradient."""
        if self.states is None:
            assert self.read is not None
            entries = self.read.new_zeros(len(self.read), self.layer.d_out, self.layer.d_in)
        else:
            grads = self.logit_gradients(self.states, self.batch)
            states = self.states.to(grads.dtype)
            if self.layer.bias_name is not None:
                states = torch.cat([states, states.new_ones(*states.shape[:2], 1)], 2)
            entries = at_least_float(grads.mT @ states)
        if self.read is not None:
            read = self.read.to(entries.dtype)
            at = self.batch.inputs[:, :, None].expand_as(read)
            entries[:, :, : read.shape[2]].scatter_add_(1, at, read)
        return entries


Factors = LayerFactors | TableFactors


def mean_gradient(
    model: PreTrainedModel,
    rows: Rows,
    output: Output,
    parameter_names: Sequence[str],
    *,
    batch_tokens: int,
    precision: Precision = "float32",
    context_share: float = 0.0,
) -> dict[str, Tensor]:
    """The mean over `rows` of each example's output gradient, by parameter name, in fp32.

    Args:
        model: At whose parameters.
        rows: Targets' examples.
        output: The output that is differentiated.
        parameter_names: By which.
        batch_tokens: Tokens in one pass, padding included.
        precision: Of the passes.
        context_share: What a context counts for, the rest being the answer's.

    Raises:
        NumericalError: a gradient is NaN or infinite.
    """
    named = dict(model.named_parameters())
    parameters = [named[name] for name in parameter_names]
    sums = [torch.zeros_like(p, dtype=_accumulator(p)) for p in parameters]
    for _, batch in iter_batches(rows, batch_tokens, model.device):
        with autocast(model.device, precision):
            total = weighted_outputs(model, batch, output, context_share).sum()
        for running, gradient in zip(sums, torch.autograd.grad(total, parameters), strict=True):
            running.add_(gradient)
    means = {n: s / len(rows.lengths) for n, s in zip(parameter_names, sums, strict=True)}
    for name, mean in means.items():
        if not torch.isfinite(mean).all():
            raise NumericalError(f"gradient of `{name}`: NaN or infinite. Check the proxy's loss.")
    return means


def factors_of(
    model: PreTrainedModel,
    layers: Sequence[Layer],
    batch: Batch,
    output: Output,
    precision: Precision = "float32",
) -> dict[str, Factors]:
    """The factors of each example's output gradient, by layer name.

    One forward and one backward pass in which no weight gradient is computed. The model is left
    as it was.
    """
    uses: dict[str, list[tuple[Tensor, Tensor]]] = {layer.name: [] for layer in layers}
    with _frozen(model), _recorded(layers, uses), autocast(batch.inputs.device, precision):
        states = hidden_states(model, batch)
        values = outputs_of_states(model, states, batch.labels, output)
        mean_outputs(values, batch.labels).sum().backward()
    present = present_positions(batch)

    def in_logits(some_states: Tensor, some: Batch) -> Float[Tensor, "batch seq vocab"]:
        with autocast(some_states.device, precision):
            return logit_gradients(model, some_states, some.labels, output)

    def factors(layer: Layer) -> Factors:
        used = uses[layer.name]
        if not layer.is_table:
            return _join(layer, used, present)
        read = at_least_float(used[0][1]) if used else None
        return TableFactors(
            layer, batch, read, states.detach() if layer.is_head else None, in_logits
        )

    return {layer.name: factors(layer) for layer in layers}


@contextlib.contextmanager
def _recorded(
    layers: Sequence[Layer], uses: dict[str, list[tuple[Tensor, Tensor]]]
) -> Iterator[None]:
    """Hooks that append (input, output gradient) of each use to `uses`.

    The gradient is taken by a hook on the output tensor: a full backward hook on the module breaks
    where the next operation works in place.
    """

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            inputs = args[0].detach()
            result.register_hook(lambda grad: uses[name].append((inputs, grad)))

        return record

    handles = [
        module.register_forward_hook(hook_for(layer.name))
        for layer in layers
        for module in layer.modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Gradients flow from the embedding's output and to no parameter."""
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, result: result.requires_grad_())
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        handle.remove()
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def _examples_formed(numbers: int, like: Tensor) -> int:
    """How many examples' gradients of so many numbers are formed at a time."""
    limit = FORMED_ON_CPU if like.device.type == "cpu" else FORMED_NUMBERS
    return max(1, limit // numbers)


def _join(
    layer: Layer, uses: list[tuple[Tensor, Tensor]], present: Bool[Tensor, "batch seq"]
) -> LayerFactors:
    inputs = torch.cat([_by_example(x, grad) for x, grad in uses], 1)
    output_grads = torch.cat([_by_example(grad, grad) for _, grad in uses], 1)
    if layer.bias_name is not None:
        inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], 2)
    present = present.repeat(1, len(uses))
    return LayerFactors(at_least_float(inputs), at_least_float(output_grads), present)


def _by_example(tensor: Tensor, grad: Tensor) -> Float[Tensor, "batch tokens width"]:
    if grad.ndim != 3:
        raise ModelError(
            f"a linear layer works on {tuple(grad.shape)}: only (batch, tokens, width) can be "
            "told apart by example. Models that mix examples in one layer are not supported."
        )
    return tensor


def _accumulator(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
