"""The layers of a `transformers` language model: linear ones and tables of the vocabulary."""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dsdm.errors import ModelError
from dsdm.learners.layers import Layer, layers_of


def moved_layers(model: PreTrainedModel, *, embeddings: bool) -> list[Layer]:
    """The linear layers, and the tables of the vocabulary where these are moved too."""
    return [*linear_layers(model), *(tables(model) if embeddings else ())]


def linear_layers(model: PreTrainedModel) -> list[Layer]:
    """The `nn.Linear` and `Conv1D` layers of the model's body, tied ones as one layer.

    Of a model with adapters theirs alone: the others' weights are fixed and need no gradient.

    Raises:
        ModelError: there is none, or two tied weights have different biases.
    """
    head = model.get_output_embeddings()
    linear = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    layers = layers_of(model, linear, transposed=(Conv1D,))
    if not layers:
        raise ModelError(f"model {type(model).__name__}: has no linear layer to attribute to.")
    return layers


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
