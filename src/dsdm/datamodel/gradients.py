"""Gradients of example outputs: mean gradients, and the two factors of each layer's.

A linear layer y = W x + b has, for one example, the gradient sum_t g_t [x_t; 1]^T, where g_t is the
gradient in its output at token t. Everything that estimators and the backward scorer need of an
example is a function of these two factors; where they form the gradient, it is a layer's at a time.

The output layer and the embeddings are not among the layers: see docs/method.md.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dsdm.data.batches import Batch, Rows, iter_batches, present_positions
from dsdm.errors import ModelError, NumericalError
from dsdm.lm.config import Output, Precision
from dsdm.lm.model import autocast
from dsdm.lm.outputs import at_least_float, example_outputs, weighted_outputs

FORMED_NUMBERS = 1 << 24
"""Numbers in the gradients of one layer that are formed at a time: 64 MiB in fp32."""
FORMED_ON_CPU = 1 << 22
"""The same on the CPU: 16 MiB, which stay in its cache until they are used."""


@dataclass(frozen=True)
class Layer:
    """A weight matrix, with its bias, and every module that uses it."""

    name: str
    """Name of the weight in `named_parameters`."""
    bias_name: str | None
    modules: tuple[nn.Module, ...]
    d_in: int
    """Inputs, and one more for the bias where there is one."""
    d_out: int
    transposed: bool
    """Whether the weight is stored as (inputs, outputs), as in GPT-2's Conv1D."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters that this layer holds."""
        return (self.name,) if self.bias_name is None else (self.name, self.bias_name)

    def to_matrix(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """The layer's part of `tensors` as one matrix, the bias its last column."""
        weight = tensors[self.name].T if self.transposed else tensors[self.name]
        if self.bias_name is None:
            return weight
        return torch.cat([weight, tensors[self.bias_name][:, None]], 1)

    def from_matrix(self, matrix: Float[Tensor, "d_out d_in"]) -> dict[str, Tensor]:
        """The inverse of `to_matrix`."""
        weight = matrix if self.bias_name is None else matrix[:, :-1]
        tensors = {self.name: (weight.T if self.transposed else weight).contiguous()}
        if self.bias_name is not None:
            tensors[self.bias_name] = matrix[:, -1].contiguous()
        return tensors


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
        numbers = self.inputs.shape[2] * self.output_grads.shape[2]
        is_on_cpu = self.inputs.device.type == "cpu"
        examples = max(1, (FORMED_ON_CPU if is_on_cpu else FORMED_NUMBERS) // numbers)
        fields = (self.inputs, self.output_grads, self.present)
        for part in zip(*(field.split(examples) for field in fields), strict=True):
            yield LayerFactors(*part)


def linear_layers(model: PreTrainedModel) -> list[Layer]:
    """The `nn.Linear` and `Conv1D` layers of the model's body, tied ones as one layer.

    Raises:
        ModelError: there is none, or two tied weights have different biases.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    users: dict[str, list[nn.Module]] = {}
    for module in model.base_model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings():
            users.setdefault(names[id(module.weight)], []).append(module)
    if not users:
        raise ModelError(f"model {type(model).__name__}: has no linear layer to attribute to.")
    return [_layer(name, modules, names) for name, modules in users.items()]


def mean_gradient(
    model: PreTrainedModel,
    rows: Rows,
    output: Output,
    parameter_names: Sequence[str],
    *,
    batch_tokens: int,
    precision: Precision = "float32",
    context_weight: float = 0.0,
) -> dict[str, Tensor]:
    """The mean over `rows` of each example's output gradient, by parameter name, in fp32.

    Args:
        model: At whose parameters.
        rows: Targets' examples.
        output: The output that is differentiated.
        parameter_names: By which.
        batch_tokens: Tokens in one pass, padding included.
        precision: Of the passes.
        context_weight: What a context's token counts for, an answer's being 1.

    Raises:
        NumericalError: a gradient is NaN or infinite.
    """
    named = dict(model.named_parameters())
    parameters = [named[name] for name in parameter_names]
    sums = [torch.zeros_like(p, dtype=_accumulator(p)) for p in parameters]
    for _, batch in iter_batches(rows, batch_tokens, model.device):
        with autocast(model.device, precision):
            total = weighted_outputs(model, batch, output, context_weight).sum()
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
) -> dict[str, LayerFactors]:
    """The factors of each example's output gradient, by layer name.

    One forward and one backward pass in which no weight gradient is computed. The model is left
    as it was.
    """
    uses: dict[str, list[tuple[Tensor, Tensor]]] = {layer.name: [] for layer in layers}
    with _frozen(model), _recorded(layers, uses), autocast(batch.inputs.device, precision):
        total = example_outputs(model, batch, output).sum()
        total.backward()
    present = present_positions(batch)
    return {layer.name: _join(layer, uses[layer.name], present) for layer in layers}


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


def _layer(name: str, modules: list[nn.Module], names: Mapping[int, str]) -> Layer:
    first = modules[0]
    biases = {id(module.bias) for module in modules}
    if len(biases) > 1:
        raise ModelError(f"`{name}` is shared by layers with different biases.")
    bias_name = None if first.bias is None else names[id(first.bias)]
    transposed = isinstance(first, Conv1D)
    rows, columns = first.weight.shape  # type: ignore[misc]
    d_out, d_in = (columns, rows) if transposed else (rows, columns)
    return Layer(name, bias_name, tuple(modules), d_in + (bias_name is not None), d_out, transposed)


def _accumulator(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
