"""The precision of matrix products, apart from torch so that the command line starts at once."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(device: "torch.device", precision: Precision) -> "torch.autocast":
    """A context in which matrix products run in bf16, or one that changes nothing."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, precision))


def uses_bfloat16(device: "torch.device", precision: Precision) -> bool:
    """Whether `precision` means bf16 here; `auto` takes it where the hardware multiplies in it."""
    import torch

    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def at_least_float(tensor: "Tensor") -> "Tensor":
    """The tensor in fp64 where it is, else in fp32."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()
