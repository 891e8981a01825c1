"""Groups of candidates to train on, all of about as many tokens and no row in two."""

import numpy as np
from jaxtyping import Float, Int

from dsdm.checking.measured import KINDS, GroupKind
from dsdm.errors import DataError
from dsdm.evaluation.rows import cut_to_tokens

Group = tuple[GroupKind, Int[np.ndarray, "..."]]


def draw_groups(
    scores: Float[np.ndarray, " rows"],
    lengths: Int[np.ndarray, " rows"],
    per_kind: int,
    share: float,
    seed: int,
) -> list[Group]:
    """Groups of rows that score high, of random rows and of rows that score low.

    Rows are positions among those given. Within a kind the groups are random parts, so that they
    are replicates of each other. No row is in two groups: under scores that mean nothing, groups
    are then as good as shuffled. Three levels and not strata all along, because usefulness may be
    flat but at the top, where the order of strata would be that of noise.

    Args:
        scores: To tell high from low by.
        lengths: Tokens in each row.
        per_kind: Groups of each kind.
        share: Of the rows' tokens, for each kind; at most a third.
        seed: Draws the rows and the groups.

    Raises:
        DataError: there are not enough rows.
    """
    rng = np.random.default_rng(seed)
    # Random rows first: drawn from what the others leave, they would be the middle.
    chance, rest = _cut(rng.permutation(len(scores)), lengths, share)
    rising = rest[np.argsort(scores[rest], kind="stable")]
    high, _ = _cut(rising[::-1], lengths, share / (1 - share))
    low, _ = _cut(rising, lengths, share / (1 - share))
    kinds = zip(KINDS, (high, chance, low), strict=True)
    return [
        (kind, part)
        for kind, rows in kinds
        for part in equal_parts(rng.permutation(rows), lengths, per_kind)
    ]


def _cut(
    order: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " all"], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """The start of `order` that has `share` of its tokens, and the rest."""
    start = cut_to_tokens(order, lengths, int(share * lengths[order].sum()))
    return start, order[len(start) :]


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


def training_order(
    rows: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " all"], tokens: int, seed: int
) -> np.ndarray:
    """The rows over and over, shuffled anew each time, until the tokens are used up."""
    from dsdm.lm.train import epoch_order

    passes = 1 + -(-tokens // int(lengths[rows].sum()))
    return cut_to_tokens(epoch_order(rows, float(passes), seed), lengths, tokens)


def mean_score(
    scores: Float[np.ndarray, " all"], lengths: Int[np.ndarray, " all"], order: np.ndarray
) -> float:
    """The mean score of what is trained on: a row counts as often as tokens of it are predicted."""
    return float(np.average(scores[order], weights=np.maximum(lengths[order] - 1, 1)))
