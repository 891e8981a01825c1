"""The learning rate of every step, and the steps at which checkpoints are kept."""

import math

import numpy as np

from dsdm.lm.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Warm-up, then a cosine, from step 0 on."""
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    floor = config.min_lr_share
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

    Where they are not at equal distances, the mean is over `num_steps / count` steps: what leads to
    the first of two after a quarter of a training counts for half as many steps as that.
    """
    rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
    ends = kept_steps(num_steps, count, first)
    means = [float(np.mean(rates[a:b])) for a, b in zip([0, *ends], ends, strict=False)]
    if first is None or count == 1:
        return means
    distances = np.diff([0, *np.linspace(first, 1, count)])
    return [float(mean * distance * count) for mean, distance in zip(means, distances, strict=True)]
