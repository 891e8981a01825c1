"""The arms of a comparison: which rows each target model is trained on, at equal training tokens.

Arms are written METHOD or METHOD-bottom for an estimator, `top` and `bottom` for the one that
selects, `random` for fresh rows (each once while the pool lasts), and `repeated` for as many random
candidates as were selected, for as many epochs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsdm.config import Config
from dsdm.errors import ConfigError
from dsdm.lm.config import ModelConfig, TrainConfig

Kind = Literal["top", "bottom", "random", "repeated"]


class CompareConfig(Config):
    """Target models that are trained to see what the selection is worth."""

    arms: tuple[str, ...] = ("top", "random", "bottom")
    """METHOD, METHOD-bottom, top, bottom, random (fresh rows), repeated (random, same epochs)."""
    epochs: float = 4.0
    """Passes over the selection; every arm gets as many training tokens."""
    seeds: int = 1
    """Trainings of each arm: each renews the initial weights, the order and random's rows."""
    model: ModelConfig | None = None
    """The model that is trained; None: the proxies'."""
    train: TrainConfig = TrainConfig()
    """Optimizer and schedule, the same for every arm."""
    parts: tuple[Literal["tune", "report"], ...] = ("report",)
    """Parts of the targets to evaluate on; choose on `tune`, look at `report` last."""


@dataclass(frozen=True)
class Arm:
    """One kind of training data."""

    name: str
    kind: Kind
    method: str = ""
    """The estimator whose ranking is used; empty for random arms."""


def parse_arm(name: str, selecting_method: str, methods: tuple[str, ...]) -> Arm:
    """The arm called `name`.

    Raises:
        ConfigError: no such arm.
    """
    if name == "random":
        return Arm(name, "random")
    if name == "repeated":
        return Arm(name, "repeated")
    method, _, suffix = name.partition("-")
    if method in ("top", "bottom") and not suffix:
        return Arm(name, "top" if method == "top" else "bottom", selecting_method)
    if method in methods and suffix in ("", "bottom"):
        return Arm(name, "bottom" if suffix else "top", method)
    raise ConfigError(
        f"compare.arms: {name!r} is not known. Write top, bottom, random, repeated, or one of "
        f"{', '.join(methods)} with or without -bottom."
    )


def cut_to_tokens(order: np.ndarray, lengths: np.ndarray, tokens: int) -> np.ndarray:
    """The longest start of `order` whose rows have at most `tokens` tokens, one row at least."""
    total = np.cumsum(lengths[order], dtype=np.int64)
    return order[: max(1, int(np.searchsorted(total, tokens, side="right")))]
