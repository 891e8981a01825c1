"""The probe: short trainings of a proxy on groups of candidates, as an oracle for their scores.

Every group starts from the same proxy with a fresh optimizer and is trained on as many tokens at
the same learning rate, on rows that the proxy has not seen. What remains different is which rows
they are. About 100 steps, because after a single one the loss falls along the plain gradient by
construction and a curvature can only look worse.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.checking.config import ProbeConfig
from dsdm.checking.reliability import mixed
from dsdm.data.sequences import Rows
from dsdm.evaluation.correlations import spearman, spearman_brown, spearman_interval
from dsdm.evaluation.evaluate import example_losses
from dsdm.evaluation.intervals import Interval
from dsdm.lm.config import TrainConfig

Columns = Mapping[str, np.ndarray]


def probe_training(config: ProbeConfig, proxy: TrainConfig, row_tokens: int) -> TrainConfig:
    """The proxies' training at the probe's batch and learning rate.

    Args:
        config: The probe's settings.
        proxy: How the proxies were trained.
        row_tokens: The longest row; a step holds one at least.
    """
    changed: TrainConfig = msgspec.structs.replace(
        proxy, lr=config.lr_share * proxy.lr, batch_tokens=max(config.batch_tokens, row_tokens)
    )
    return changed


def target_losses(
    model: PreTrainedModel, targets: Mapping[str, Rows], batch_tokens: int
) -> dict[str, np.ndarray]:
    """The loss of each example of each target, in nats a target token."""
    return {
        name: example_losses(model, rows, batch_tokens=batch_tokens)
        for name, rows in targets.items()
    }


def mean_reductions(
    before: Columns, after: Sequence[Columns]
) -> dict[str, Float[np.ndarray, " groups"]]:
    """By how much each target's mean loss fell in each group's training, in nats."""
    return {
        name: np.array([losses.mean() - group[name].mean() for group in after])
        for name, losses in before.items()
    }


def reduction_reliability(
    before: Columns, after: Sequence[Columns], weights: Mapping[str, float], seed: int
) -> float | None:
    """How reliably the examples tell the groups apart: halves of them, by Spearman-Brown.

    None where a target has a single example or all reductions are equal.
    """
    rng = np.random.default_rng(seed)
    first, second = {}, {}
    for name, losses in before.items():
        order, middle = rng.permutation(len(losses)), len(losses) // 2
        first[name], second[name] = order[:middle], order[middle:]
    if not all(map(len, first.values())):
        return None
    found = spearman(
        mixed(mean_reductions(_take(before, first), [_take(a, first) for a in after]), weights),
        mixed(mean_reductions(_take(before, second), [_take(a, second) for a in after]), weights),
    )
    return None if found is None else spearman_brown(found, 2)


def probe_correlations(
    scores: Columns, reductions: Columns, weights: Mapping[str, float], seed: int
) -> dict[str, Interval | None]:
    """Spearman's correlation over groups of mean score and loss reduction, with its interval.

    Args:
        scores: Each group's mean score, for `mix` and each target.
        reductions: By how much each target's loss fell in each group's training.
        weights: Each target's in the mix; reductions are brought to unit spread as directions are.
        seed: Draws the bootstrap.
    """
    fallen = {"mix": mixed(reductions, weights), **reductions}
    return {name: spearman_interval(scores[name], fallen[name], seed) for name in fallen}


def _take(columns: Columns, indices: Columns) -> dict[str, np.ndarray]:
    return {name: values[indices[name]] for name, values in columns.items()}
