"""GPT-2 with `nn.Linear` where transformers has Conv1D, for peers that know no other layer."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def with_linear_layers(model: nn.Module) -> nn.Module:
    """The same function with the same weights, transposed."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, Conv1D):
                setattr(module, name, _linear(layer))
    return model


def block_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of the blocks: all but the output layer."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if ".h." in name]


class Rows(torch.utils.data.Dataset):
    """Rows of tokens, each with itself as its labels."""

    def __init__(self, rows: Any) -> None:
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def summed_loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The sum over all tokens that are predicted."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


def _linear(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear
