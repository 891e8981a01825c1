"""The direction: what an estimator makes, a scorer reads, and the seam between them.

The averaged datamodel of a set of targets gives candidate x the score <u, grad f(x)> for one
direction u in parameter space. Directions add: a mix of targets is one direction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsdm.errors import NumericalError

ABOUT = "direction"


@dataclass(frozen=True)
class Direction:
    """One tensor for each parameter that it moves; higher scores along it are better."""

    tensors: Mapping[str, Tensor]
    """By name in `named_parameters`."""
    estimator: str
    """What made it."""
    target: str
    """What it serves: a target's name, or `mix`."""
    model: str = ""
    """Fingerprint of the model in whose parameter space it lies."""

    def scaled(self, factor: float) -> "Direction":
        """This direction times `factor`."""
        tensors = {name: tensor * factor for name, tensor in self.tensors.items()}
        return Direction(tensors, self.estimator, self.target, self.model)


def add_directions(
    directions: Sequence[Direction], weights: Sequence[float], target: str = "mix"
) -> Direction:
    """The weighted sum of directions of one estimator in one model's parameter space."""
    first = directions[0]
    if any((d.estimator, d.model) != (first.estimator, first.model) for d in directions):
        raise ValueError("only directions of one estimator and one model can be added")
    tensors: dict[str, Tensor] = {}
    for direction, weight in zip(directions, weights, strict=True):
        for name, tensor in direction.tensors.items():
            tensors[name] = tensors[name] + weight * tensor if name in tensors else weight * tensor
    return Direction(tensors, first.estimator, target, first.model)


def check_direction(direction: Direction) -> None:
    """Raises NumericalError where the direction is NaN, infinite or zero everywhere."""
    norms = torch.stack([tensor.double().norm() for tensor in direction.tensors.values()])
    norm = norms.norm().item()
    if not 0 < norm < float("inf"):
        raise NumericalError(
            f"direction {direction.estimator} for {direction.target}: its norm is {norm}. "
            "Use more rows for the curvature or more damping."
        )


def save_direction(direction: Direction, path: Path) -> None:
    """Writes the direction as one safetensors file."""
    about = {
        "estimator": direction.estimator,
        "target": direction.target,
        "model": direction.model,
    }
    tensors = {name: tensor.contiguous() for name, tensor in direction.tensors.items()}
    # One entry alone: safetensors writes several in an order that differs from run to run.
    save_file(tensors, path, metadata={ABOUT: json.dumps(about)})


def load_direction(path: Path, device: torch.device | str = "cpu") -> Direction:
    """The direction that `save_direction` wrote."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Direction(tensors, **json.loads(file.metadata()[ABOUT]))
