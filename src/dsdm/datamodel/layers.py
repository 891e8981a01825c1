"""The layers that directions move: weight matrices, with what an estimator needs to know of them.

A linear layer's weight has inputs on one side and outputs on the other. A table of the vocabulary,
the embeddings or the output layer, has the vocabulary on one side; tied, the two are one table.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dsdm.errors import ModelError


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
    is_table: bool = False
    """Whether `d_out` counts the vocabulary: the embeddings, the output layer, or both in one."""
    is_head: bool = False
    """Whether logits are made by it."""

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


def moved_layers(model: PreTrainedModel, *, embeddings: bool) -> list[Layer]:
    """The linear layers, and the tables of the vocabulary where these are moved too."""
    return [*linear_layers(model), *(tables(model) if embeddings else ())]


def layers_named(model: PreTrainedModel, names: Collection[str]) -> list[Layer]:
    """Those of the model's layers and tables whose parameters are among `names`.

    Raises:
        ValueError: a name is of another parameter.
    """
    layers = [la for la in moved_layers(model, embeddings=True) if la.name in names]
    if set(names) - {name for layer in layers for name in layer.parameter_names}:
        raise ValueError("a direction moves parameters that are neither in a layer nor in a table")
    return layers


def linear_layers(model: PreTrainedModel) -> list[Layer]:
    """The `nn.Linear` and `Conv1D` layers of the model's body, tied ones as one layer.

    Of a model with adapters theirs alone: the others' weights are fixed and need no gradient.

    Raises:
        ModelError: there is none, or two tied weights have different biases.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    users: dict[str, list[nn.Module]] = {}
    for module in model.base_model.modules():
        if (
            isinstance(module, nn.Linear | Conv1D)
            and module is not model.get_output_embeddings()
            and module.weight.requires_grad
        ):
            users.setdefault(names[id(module.weight)], []).append(module)
    if not users:
        raise ModelError(f"model {type(model).__name__}: has no linear layer to attribute to.")
    return [_layer(name, modules, names) for name, modules in users.items()]


def tables(model: PreTrainedModel) -> list[Layer]:
    """The embeddings and the output layer; one table where they are tied.

    None of a model with adapters, whose own weights are fixed.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not embedding.weight.requires_grad:
        return []
    modules: tuple[nn.Module, ...] = (embedding, head)
    if embedding.weight is head.weight:
        return [_table(modules, head.bias, names, is_head=True)]
    output = _table((head,), head.bias, names, is_head=True)
    return [_table((embedding,), None, names, is_head=False), output]


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


def _table(
    modules: tuple[nn.Module, ...],
    bias: Tensor | None,
    names: Mapping[int, str],
    *,
    is_head: bool,
) -> Layer:
    weight = modules[0].weight
    assert isinstance(weight, Tensor)
    bias_name = None if bias is None else names[id(bias)]
    entries, width = weight.shape
    d_in = width + (bias is not None)
    name = names[id(weight)]
    return Layer(name, bias_name, modules, d_in, entries, False, is_table=True, is_head=is_head)
