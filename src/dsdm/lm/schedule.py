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


def kept_steps(num_steps: int, count: int) -> list[int]:
    """Steps after which a checkpoint is kept: the ends of `count` equal parts of the training."""
    return [round(num_steps * (number + 1) / count) for number in range(count)]


def mean_rates(config: TrainConfig, num_steps: int, count: int) -> list[float]:
    """The mean learning rate of the steps that lead to each kept checkpoint."""
    rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
    ends = kept_steps(num_steps, count)
    return [float(np.mean(rates[a:b])) for a, b in zip([0, *ends], ends, strict=False)]
