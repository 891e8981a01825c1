"""Compute multipliers: how much more training compute random data needs for the same loss.

The gross multiplier of a method is the compute at which random's curve reaches the method's loss,
over the compute that the method's training took. It is the paper's figure (Engstrom et al., 2024,
which reads it off accuracy and counts training alone). The net multiplier counts the selection too:
where training costs C and selecting S, random would have to spend g C, and net = g C / (C + S).

A fixed model's loss on a target saturates as it is trained longer, which makes every further gain
look large in random's compute: this is not the multiplier of a larger model trained as long as is
best for it. Random's rows have to be fresh at every budget: repeated rows bend its curve.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dsdm.evaluation.comparison import BASELINE, Losses, target_groups
from dsdm.evaluation.curve import Bound, Bounded, Estimate, RandomCurve
from dsdm.evaluation.intervals import CONFIDENCE, REPLICATES

_OPPOSITE: dict[Bound, Bound] = {"": "", "at least": "at most", "at most": "at least"}


@dataclass(frozen=True)
class MethodCost:
    """The compute and time that a training or a selection took."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "MethodCost") -> "MethodCost":
        return MethodCost(self.flops + other.flops, self.seconds + other.seconds)


def mean_cost(costs: Sequence[MethodCost]) -> MethodCost:
    """The mean of costs, one or more."""
    total = sum(costs, MethodCost())
    return MethodCost(total.flops / len(costs), total.seconds / len(costs))


@dataclass(frozen=True)
class Net:
    """A method's multiplier with the cost of its selection counted, in FLOPs or in seconds."""

    multiplier: Estimate
    trainings: Estimate
    """Target trainings after which the selection has paid for itself."""


@dataclass(frozen=True)
class ArmMultiplier:
    """One arm on one target."""

    target: str
    arm: str
    num_seeds: int
    """Seeds that it and every budget of random have."""
    gross: Estimate
    net_flops: Net | None
    """Counted in FLOPs; None where the selection's cost is not known."""
    net_seconds: Net | None
    """Counted in seconds, as if random's took as long a FLOP as the method's."""


def multipliers(
    losses: Losses,
    training: Mapping[str, MethodCost],
    selection: Mapping[str, MethodCost],
    *,
    mix: Collection[str] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    confidence: float = CONFIDENCE,
) -> list[ArmMultiplier]:
    """Every arm but random's on every target, and on their mean where there are several.

    An arm is compared with random over the seeds that it and every budget of random have.

    Args:
        losses: Arms that share no seed with random are left out.
        training: Mean cost of one training of each arm, random's at every budget among them.
        selection: Cost of each arm's selection; an arm that is not here has no net multiplier.
        mix: Targets whose mean is taken; None: all.
        seed: Draws the bootstrap of the intervals (`RandomCurve.needed_compute`).
        replicates: Of that bootstrap.
        confidence: Of the intervals, in 0..1.

    Returns:
        Targets first, the mean of targets last. Nothing where random has fewer than two budgets:
        they are no curve.

    Raises:
        ValueError: a cost of training is missing or not above 0.
    """
    found = {arm: seeds for arm, seeds in losses.items() if seeds}
    for arm in found:
        cost = training.get(arm)
        if cost is None or not (cost.flops > 0 and cost.seconds > 0):
            raise ValueError(f"the training of {arm} needs FLOPs and seconds above 0, got {cost}.")
    budgets = sorted(filter(is_random, found), key=lambda arm: training[arm].flops)
    if len(budgets) < 2:
        return []
    compute = np.array([training[arm].flops for arm in budgets])
    of_random = set.intersection(*(set(found[arm]) for arm in budgets))
    lines = []
    for target, group in target_groups(found, mix).items():
        means = {
            arm: {s: float(np.mean([one[t].mean() for t in group])) for s, one in seeds.items()}
            for arm, seeds in found.items()
        }
        for arm, own in means.items():
            shared = sorted(of_random & set(own))
            if is_random(arm) or not shared:
                continue
            curve = RandomCurve(compute, [{s: means[one][s] for s in shared} for one in budgets])
            needed = curve.needed_compute(
                {s: own[s] for s in shared},
                seed=seed,
                replicates=replicates,
                confidence=confidence,
            )
            trained, selected = training[arm], selection.get(arm)
            gross = needed.times(1 / trained.flops)
            by_flops, by_seconds = None, None
            if selected is not None:
                by_flops = _net(gross, trained.flops, selected.flops)
                by_seconds = _net(gross, trained.seconds, selected.seconds)
            lines.append(ArmMultiplier(target, arm, len(shared), gross, by_flops, by_seconds))
    return lines


def is_random(arm: str) -> bool:
    """Whether an arm is random at some budget: `random`, or `random@B` for B times the budget."""
    return arm.partition("@")[0] == BASELINE


def trainings_to_pay(gross: Estimate, training: float, selection: float) -> Estimate:
    """Target trainings after which a selection has paid for itself.

    The smallest whole n with n g C >= n C + S; infinite where g is at most 1.

    Args:
        gross: The multiplier g.
        training: Cost C of one training on the selection, above 0.
        selection: Cost S of the selection, in the same unit.
    """

    def trainings(end: Bounded) -> Bounded:
        if end.value <= 1:
            # A multiplier of at most 1 never pays; one of at least 1 may.
            return Bounded(math.inf, "at most" if end.bound == "at least" else "")
        needed = math.ceil(selection / ((end.value - 1) * training))
        return Bounded(float(needed), _OPPOSITE[end.bound])

    # The larger the multiplier, the fewer trainings.
    return Estimate(gross.value, gross.high, gross.low).through(trainings)


def trainings_text(trainings: Bounded) -> str:
    """Such as `3`, `<= 3`, `never`, or `unknown` where the multiplier's bound leaves it open."""
    if math.isfinite(trainings.value):
        return trainings.text(digits=0)
    return "unknown" if trainings.bound else "never"


def _net(gross: Estimate, training: float, selection: float) -> Net:
    multiplier = gross.times(training / (training + selection))
    return Net(multiplier, trainings_to_pay(gross, training, selection))
