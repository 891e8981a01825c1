"""Which rows of the pool an arm of a comparison is trained on, and in which order."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from jaxtyping import Bool, Int

from dsdm.baselines.controls import best_source, source_matched
from dsdm.baselines.random import random_scores
from dsdm.evaluation.arms import Arm
from dsdm.lm.train import epoch_order
from dsdm.selection import Scores, SelectionConfig, select, selected_tokens


@dataclass(frozen=True)
class ArmPool:
    """The pool that arms choose from."""

    lengths: Int[np.ndarray, " rows"]
    """Tokens in each row."""
    candidate_of_row: Int[np.ndarray, " rows"]
    """The candidate that each row belongs to."""
    allowed: Bool[np.ndarray, " candidates"]
    """Which candidates an arm may be trained on: not dropped, and not held out."""
    counts_rows: bool = False
    """Whether arms are of equal numbers of rows where the selection is of so many candidates, as
    for conversations: people count them, and they differ in length by more than arms should."""


def training_rows(
    arm: Arm,
    pool: ArmPool,
    selection: SelectionConfig,
    epochs: float,
    seed: int,
    scores: Scores | None = None,
    is_duplicate: Callable[[int], bool] | None = None,
) -> Int[np.ndarray, " trained"]:
    """The rows that an arm is trained on, in order: as many tokens for every arm, but for a row.

    The arm `all` has as many epochs instead.

    Args:
        arm: What to train on.
        pool: What to choose from.
        selection: How the run selects.
        epochs: Passes over the selection.
        seed: Draws random rows and the order.
        scores: To rank by, or that a control is like; not needed by `random` and `all`.
        is_duplicate: Whether a candidate is a near-duplicate of one that it was asked about before.

    Raises:
        ConfigError: what is selected is below 1.
        DataError: the pool has less than what is selected.
    """
    sizes, selected = pool.lengths, _selected_tokens(pool, selection)
    if pool.counts_rows and selection.candidates is not None:
        sizes, selected = np.ones_like(sizes), selection.candidates
    budget = int(epochs * arm.budget * selected)
    if arm.kind in ("random", "all"):
        rows = np.flatnonzero(pool.allowed[pool.candidate_of_row])
        if arm.kind == "all":
            return epoch_order(rows, arm.budget * (arm.epochs or epochs), seed)
        rows = np.random.default_rng(seed).permutation(rows)
        # Fresh rows while the pool lasts.
        passes = float(math.ceil(max(1.0, budget / max(1, sizes[rows].sum()))))
    else:
        assert scores is not None, f"{arm.name} ranks by scores"
        chosen = _chosen(arm, pool, selection, epochs, seed, scores, is_duplicate)
        rows = np.flatnonzero(np.isin(pool.candidate_of_row, chosen))
        passes = 1.5 * budget / sizes[rows].sum()
    return cut_to_tokens(epoch_order(rows, passes, seed), sizes, budget)


def cut_to_tokens(
    order: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " all"], tokens: int
) -> Int[np.ndarray, " start"]:
    """The longest start of `order` whose rows have at most `tokens` tokens, one row at least."""
    total = np.cumsum(lengths[order], dtype=np.int64)
    return order[: max(1, int(np.searchsorted(total, tokens, side="right")))]


def _chosen(
    arm: Arm,
    pool: ArmPool,
    selection: SelectionConfig,
    epochs: float,
    seed: int,
    scores: Scores,
    is_duplicate: Callable[[int], bool] | None,
) -> Int[np.ndarray, " candidates"]:
    """The candidates that an arm with scores or a control repeats."""
    more, refused = arm.times_selected(epochs), np.flatnonzero(~pool.allowed)
    if arm.kind in ("top", "source-matched"):
        chosen = select(scores, selection, factor=more, refused=refused, is_refused=is_duplicate)
        if arm.kind == "top":
            return chosen
        scores = source_matched(scores, chosen, seed, pool.allowed)
    # A near-duplicate is as good as its double at the bottom, and in a random draw.
    selection = msgspec.structs.replace(selection, near_duplicates=None)
    if arm.kind == "bottom":
        return select(scores, selection, factor=more, bottom=True, refused=refused)
    if arm.kind == "best-source":
        scores = best_source(scores, _selected_tokens(pool, selection, more), seed, pool.allowed)
    elif arm.kind == "repeated":
        scores = random_scores(
            scores.num_tokens, scores.sources, scores.source_names, seed, scores.fingerprint
        )
    # Controls are random draws: the budget applies, caps and noise don't.
    budget = SelectionConfig(
        tokens=selection.tokens, candidates=selection.candidates, fraction=selection.fraction
    )
    return select(scores, budget, factor=more, refused=refused)


def _selected_tokens(pool: ArmPool, selection: SelectionConfig, factor: float = 1.0) -> int:
    return selected_tokens(selection, len(pool.allowed), int(pool.lengths.sum()), factor)
