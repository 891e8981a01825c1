"""Adam's moments in the parameters that a training moves, beside the model they belong to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsdm.errors import ArtifactError

FILE = "moments.safetensors"
ABOUT = "adam"


@dataclass(frozen=True)
class Moments:
    """What Adam has gathered of the loss's gradients in so many steps, by parameter name.

    A parameter that has never had a gradient has no moments: take 0.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    steps: int
    betas: tuple[float, float]


def moments_of(
    optimizer: torch.optim.AdamW, named: Iterable[tuple[str, Tensor]], steps: int
) -> Moments:
    """The optimizer's moments of the named parameters, which stay its own."""
    states = {name: optimizer.state[p] for name, p in named if optimizer.state.get(p)}
    betas = optimizer.param_groups[0]["betas"]
    first = {name: state["exp_avg"] for name, state in states.items()}
    return Moments(first, {n: state["exp_avg_sq"] for n, state in states.items()}, steps, betas)


def save_moments(moments: Moments, folder: Path) -> None:
    """Writes the moments into a model's folder."""
    parts = {"first": moments.first, "second": moments.second}
    tensors = {f"{k}.{n}": t.contiguous() for k, part in parts.items() for n, t in part.items()}
    about = {"steps": moments.steps, "betas": moments.betas}
    # One entry alone: safetensors writes several in an order that differs from run to run.
    save_file(tensors, folder / FILE, metadata={ABOUT: json.dumps(about)})


def load_moments(folder: Path, device: torch.device | str = "cpu") -> Moments:
    """The moments that `save_moments` wrote.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    parts: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
    try:
        with safe_open(folder / FILE, framework="pt", device=str(device)) as file:
            for key in file.keys():  # noqa: SIM118
                part, name = key.split(".", 1)
                parts[part][name] = file.get_tensor(key)
            about = json.loads(file.metadata()[ABOUT])
    except Exception as error:  # what safetensors raises has no base
        raise ArtifactError(
            f"{folder / FILE}: Adam's moments can't be read ({error}). Make the proxies again with "
            "--redo proxies."
        ) from error
    return Moments(parts["first"], parts["second"], about["steps"], tuple(about["betas"]))
