"""The layers that directions move: weight matrices, with what an estimator needs to know of them.

A linear layer's weight has inputs on one side and outputs on the other. A table has the entries of
a vocabulary on one side: embeddings, an output layer, or, where they are tied, both in one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    """Whether the weight is stored as (inputs, outputs)."""
    is_table: bool = False
    """Whether `d_out` counts a vocabulary."""
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


def layers_of(
    model: nn.Module, modules: Iterable[nn.Module], transposed: tuple[type[nn.Module], ...] = ()
) -> list[Layer]:
    """The linear layers that some modules are, those with the same weight as one layer.

    Args:
        model: Whose parameters have the layers' names.
        modules: Each with a `weight` and a `bias`, which may be None. Those whose weight is not
            trained are left out.
        transposed: Classes that store their weight as (inputs, outputs).

    Raises:
        ModelError: two layers with one weight have different biases.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    users: dict[str, list[nn.Module]] = {}
    for module in modules:
        if module.weight.requires_grad:
            users.setdefault(names[id(module.weight)], []).append(module)
    layers = []
    for name, sharing in users.items():
        first = sharing[0]
        if len({id(module.bias) for module in sharing}) > 1:
            raise ModelError(f"`{name}` is shared by layers with different biases.")
        bias_name = names[id(first.bias)] if isinstance(first.bias, Tensor) else None
        is_transposed = isinstance(first, transposed)
        rows, columns = first.weight.shape  # type: ignore[misc]
        d_out, d_in = (columns, rows) if is_transposed else (rows, columns)
        layers.append(
            Layer(
                name,
                bias_name,
                tuple(sharing),
                d_in + (bias_name is not None),
                d_out,
                is_transposed,
            )
        )
    return layers
