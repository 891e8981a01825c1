"""Each arm's loss on each target, and its difference to that of random rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dsdm.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_means,
    paired_t_interval,
)

BASELINE = "random"
ALL_TARGETS = "mean of targets"

Losses = Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]
"""By arm, seed and target: the loss of each example in nats a target token."""


@dataclass(frozen=True)
class ComparedLoss:
    """One arm on one target."""

    target: str
    arm: str
    num_seeds: int
    num_pairs: int
    """Seeds that both it and the baseline have; the difference is their mean."""
    loss_nats: float
    """Mean over examples, then over seeds."""
    difference: Interval | None
    """To the baseline, over the seeds that both have; None for the baseline itself."""
    over: Literal["seeds", "examples"]
    """What the interval resamples: examples where both arms share a single seed, else seeds."""


def compare_losses(
    losses: Losses, baseline: str = BASELINE, *, mix: Collection[str] | None = None
) -> list[ComparedLoss]:
    """Every arm on every target, and on their mean where there are several; targets first.

    Args:
        losses: By arm, seed and target.
        baseline: The arm that differences are to.
        mix: Targets whose mean is taken; None: all.
    """
    return [
        _compare(losses, arm, baseline, name, group)
        for name, group in target_groups(losses, mix).items()
        for arm in losses
        if losses[arm]
    ]


def target_groups(losses: Losses, mix: Collection[str] | None = None) -> dict[str, list[str]]:
    """Each target by itself, and those in `mix` (None: all) together where they are several."""
    found = [by_target for seeds in losses.values() for by_target in seeds.values()]
    targets = list(dict.fromkeys(target for by_target in found for target in by_target))
    groups = {target: [target] for target in targets}
    mixed = [target for target in targets if mix is None or target in mix]
    return groups | {ALL_TARGETS: mixed} if len(mixed) > 1 else groups


def _compare(
    losses: Losses, arm: str, baseline: str, name: str, targets: list[str]
) -> ComparedLoss:
    seeds = losses[arm]
    shared = sorted(set(seeds) & set(losses.get(baseline, {}))) if arm != baseline else []
    pairs = [[seeds[s][t] - losses[baseline][s][t] for t in targets] for s in shared]
    return ComparedLoss(
        target=name,
        arm=arm,
        num_seeds=len(seeds),
        num_pairs=len(shared),
        loss_nats=float(np.mean([[s[t].mean() for t in targets] for s in seeds.values()])),
        difference=_interval(pairs),
        over="examples" if len(shared) < 2 else "seeds",
    )


def _interval(pairs: list[list[np.ndarray]]) -> Interval | None:
    """The interval of the mean difference; one item of `pairs` is a seed's targets."""
    if not pairs:
        return None
    means = np.array([np.mean([target.mean() for target in targets]) for targets in pairs])
    if len(means) > 1:
        return paired_t_interval(means)
    resampled = [bootstrap_means(values, seed=i) for i, values in enumerate(pairs[0])]
    return bootstrap_interval(float(means[0]), np.mean(resampled, axis=0))
