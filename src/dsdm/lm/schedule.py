"""The learning rate of every step, and the steps at which checkpoints are kept."""

import math

import numpy as np

from dsdm.lm.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Warm-up, then a cosine, from step 0 on."""
    warmup = max(1, round(config.warmup_ratio * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    floor = config.min_lr_ratio
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def kept_steps(num_steps: int, count: int, first: float | None = None) -> list[int]:
    """Steps after which a checkpoint is kept, at equal distances, the last one at the end.

    Args:
        num_steps: Those of the training.
        count: How many checkpoints.
        first: Where the first of several is, as a share of the training; None: 1 / count.
    """
    if first is None or count == 1:
        return [round(num_steps * (number + 1) / count) for number in range(count)]
    return [round(num_steps * share) for share in np.linspace(first, 1, count).tolist()]


def checkpoint_rates(
    config: TrainConfig, num_steps: int, count: int, first: float | None = None
) -> list[float]:
    """What each of `kept_steps` counts for: the mean learning rate of the steps that lead to it.

    With `first` it is their sum over `num_steps / count`, so that more steps count for more.
    """
    rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
    ends = kept_steps(num_steps, count, first)
    parts = [rates[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    if first is None or count == 1:
        return [float(np.mean(part)) for part in parts]
    return [sum(part) * count / num_steps for part in parts]
