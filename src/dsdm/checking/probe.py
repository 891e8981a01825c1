"""The probe: short trainings of a proxy on groups of candidates, as an oracle for their scores.

Every group starts from the same proxy with a fresh optimizer and is trained on as many tokens at
the same learning rate, on rows that the proxy has not seen, so groups differ in their rows alone.
About 100 steps, because after a single one the loss falls along the plain gradient by construction
and a curvature can only look worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.checking.config import ProbeConfig
from dsdm.checking.measured import KINDS, GroupKind, Probe, ProbeGroup
from dsdm.checking.measures import Columns, mixed
from dsdm.datamodel.config import MIX
from dsdm.errors import DataError
from dsdm.evaluation.correlations import spearman, spearman_brown, spearman_interval
from dsdm.evaluation.intervals import bootstrap_interval, bootstrap_means
from dsdm.evaluation.rows import cut_to_tokens
from dsdm.lm.config import TrainConfig
from dsdm.lm.train import epoch_order

MIN_UNSEEN = 0.25
"""Share of the sample from which on the probe trains only on rows that its proxy has not seen."""

Group = tuple[GroupKind, Int[np.ndarray, "..."]]
"""The kind of a group, and its rows as positions in some list of rows."""


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


def probe_rows(seen: Bool[np.ndarray, " rows"]) -> Int[np.ndarray, " allowed"]:
    """Positions of the rows that the probe may train on: unseen ones, or all where these are few.

    Args:
        seen: Which rows of the sample the probed proxy was trained on.
    """
    unseen = np.flatnonzero(~seen)
    return unseen if len(unseen) >= MIN_UNSEEN * len(seen) else np.arange(len(seen))


def draw_groups(
    scores: Float[np.ndarray, " rows"],
    lengths: Int[np.ndarray, " rows"],
    per_kind: int,
    share: float,
    seed: int,
) -> list[Group]:
    """Groups of rows that score high, of random rows and of rows that score low.

    Rows are positions among those given, and no row is in two groups. Within a kind the groups are
    random parts, so that they are replicates of each other. There are three levels and not strata
    all along, because usefulness may be flat but at the top, where the order of strata would be
    that of noise.

    Args:
        scores: To tell high from low by.
        lengths: Tokens in each row.
        per_kind: Groups of each kind.
        share: Of the rows' tokens, for each kind; at most a third.
        seed: Draws the rows and the groups.

    Raises:
        DataError: there are not enough rows.
    """

    def cut(order: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        start = cut_to_tokens(order, lengths, int(share * lengths[order].sum()))
        return start, order[len(start) :]

    rng = np.random.default_rng(seed)
    # Random rows first: drawn from what the others leave, they would be the middle.
    chance, rest = cut(rng.permutation(len(scores)), share)
    rising = rest[np.argsort(scores[rest], kind="stable")]
    high, _ = cut(rising[::-1], share / (1 - share))
    low, _ = cut(rising, share / (1 - share))
    kinds = zip(KINDS, (high, chance, low), strict=True)
    return [
        (kind, part)
        for kind, rows in kinds
        for part in equal_parts(rng.permutation(rows), lengths, per_kind)
    ]


def equal_parts(
    order: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " all"], count: int
) -> list[np.ndarray]:
    """`order` in `count` consecutive parts of as equal a number of tokens as whole rows allow.

    Raises:
        DataError: a part would be empty.
    """
    tokens = lengths[order].astype(np.float64)
    middles = np.cumsum(tokens) - tokens / 2
    part_of_row = (middles * count / tokens.sum()).astype(np.int64)
    parts = [order[part_of_row == number] for number in range(count)]
    if not all(map(len, parts)):
        raise DataError(
            f"{len(order)} rows of the pool are too few for {count} groups of the probe. Raise "
            "check.rows or check.probe.share, or lower check.probe.groups."
        )
    return parts


def group_order(
    rows: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " all"], tokens: int, seed: int
) -> np.ndarray:
    """A group's rows over and over, shuffled anew each time, until the tokens are used up."""
    passes = 1 + -(-tokens // int(lengths[rows].sum()))
    return cut_to_tokens(epoch_order(rows, float(passes), seed), lengths, tokens)


@dataclass(frozen=True)
class TrainedGroup:
    """A group, and what came of training on it."""

    kind: GroupKind
    rows: Int[np.ndarray, "..."]
    """As drawn."""
    order: Int[np.ndarray, "..."]
    """The rows that were trained on, in order."""
    tokens: int
    """Trained on."""
    losses: Columns
    """By target, the losses of its tune examples after the training, in nats."""


def measure_probe(
    groups: Sequence[TrainedGroup],
    lengths: Int[np.ndarray, " rows"],
    scores: Columns,
    before: Columns,
    weights: Mapping[str, float],
    *,
    seed: int,
    steps: int,
    proxy_tokens: int,
) -> Probe:
    """Whether training on what scores higher lowered the losses more.

    Args:
        groups: In any order.
        lengths: Tokens in each row.
        scores: Each row's, for the mix and each target.
        before: As the groups' losses, by the probed proxy itself.
        weights: Each target's in the mix.
        seed: Draws the bootstraps and the halves of examples.
        steps: Of each training.
        proxy_tokens: That the proxy was trained on.
    """
    kinds, after = np.array([group.kind for group in groups]), [group.losses for group in groups]
    reductions = mean_reductions(before, after)
    gains = {}
    for name, values in reductions.items():
        high, random = values[kinds == "high"], values[kinds == "random"]
        resampled = bootstrap_means(high, seed=seed) - bootstrap_means(random, seed=seed + 1)
        gains[name] = bootstrap_interval(float(high.mean() - random.mean()), resampled)
    means = {
        name: np.array([mean_score(values, lengths, group.order) for group in groups])
        for name, values in scores.items()
    }
    # Reductions are mixed as directions are: each at unit spread.
    reduced = {MIX: mixed(reductions, weights), **reductions}
    tokens = sum(group.tokens for group in groups)
    return Probe(
        groups=[
            ProbeGroup(
                group.kind,
                len(group.rows),
                float(means[MIX][number]),
                {name: float(values[number]) for name, values in reductions.items()},
            )
            for number, group in enumerate(groups)
        ],
        gain=gains,
        correlations={
            name: spearman_interval(means[name], values, seed) for name, values in reduced.items()
        },
        reliability=reduction_reliability(before, after, weights, seed),
        steps=steps,
        tokens=tokens,
        share_of_proxy=tokens / proxy_tokens,
    )


def mean_reductions(
    before: Columns, after: Sequence[Columns]
) -> dict[str, Float[np.ndarray, " groups"]]:
    """By how much each target's mean loss fell in each group's training, in nats."""
    return {
        name: np.array([losses.mean() - group[name].mean() for group in after])
        for name, losses in before.items()
    }


def mean_score(
    scores: Float[np.ndarray, " all"], lengths: Int[np.ndarray, " all"], order: np.ndarray
) -> float:
    """The mean score over the predicted tokens of the rows that are trained on."""
    return float(np.average(scores[order], weights=np.maximum(lengths[order] - 1, 1)))


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

    def mix_of(half: Columns) -> Float[np.ndarray, " groups"]:
        of_half = [{n: values[half[n]] for n, values in one.items()} for one in (before, *after)]
        return mixed(mean_reductions(of_half[0], of_half[1:]), weights)

    found = spearman(mix_of(first), mix_of(second))
    return None if found is None else spearman_brown(found, 2)
