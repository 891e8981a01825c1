"""Combines scores over checkpoints, and shrinks them towards the means of groups.

What candidates of one kind do to a target is known well: their mean score is over many of them.
What makes one candidate better than another of its kind is known less well, because a slope at a
trained proxy stands for what that candidate does in a whole training. So a score becomes

    group's mean + (1 - shrinkage) (score - group's mean)

which predicts retraining better. The mean of a small group is itself shrunk towards the pool's, as
in a one-way model with random effects: by how much follows from the spread within and between
groups (Searle, Casella and McCulloch, Variance Components, 1992, chapter 3). Where groups do not
differ, all are shrunk to one point, and the order of candidates stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


def checkpoint_mean(
    scores: Sequence[Float[np.ndarray, " n"]], weights: Float[np.ndarray, " checkpoints"] | None
) -> Float[np.ndarray, " n"]:
    """The mean of scores at several checkpoints.

    Args:
        scores: Of the same candidates at each checkpoint.
        weights: What each checkpoint counts for, together 1; None: all the same.
    """
    if weights is None or len(set(weights.tolist())) == 1:
        return np.asarray(np.mean(scores, axis=0))
    return np.asarray(np.average(scores, axis=0, weights=weights))


def weighted_means(
    values: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    num_groups: int,
) -> Float[np.ndarray, " groups"]:
    """The weighted mean of each group's values; 0 of a group without any."""
    total = np.bincount(group, weights, num_groups)
    sums = np.bincount(group, values * weights, num_groups)
    return np.divide(sums, total, out=np.zeros(num_groups), where=total > 0)


class GroupMoments:
    """How many scores of each group were seen, their sum and their sum of squares."""

    def __init__(self, num_groups: int) -> None:
        self._counts = np.zeros(num_groups)
        self._sums = np.zeros(num_groups)
        self._squares = np.zeros(num_groups)

    def add(self, group: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> None:
        """Counts some candidates: each one's group and score."""
        values, size = scores.astype(np.float64), len(self._counts)
        self._counts += np.bincount(group, minlength=size)
        self._sums += np.bincount(group, values, size)
        self._squares += np.bincount(group, values**2, size)

    def mean(self) -> float:
        """The mean of all scores that were seen; 0 of none."""
        return float(self._sums.sum() / max(1.0, self._counts.sum()))

    def means(self) -> Float[np.ndarray, " groups"]:
        """What the scores of each group are shrunk towards; 0 of a group that was not seen."""
        seen = self._counts > 0
        found = np.zeros(len(seen))
        if seen.any():
            found[seen] = _shrunk_means(self._counts[seen], self._sums[seen], self._squares[seen])
        return found


def shrunk(
    scores: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    means: Float[np.ndarray, " groups"],
    shrinkage: float,
    group_mean: Float[np.ndarray, " groups"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Each score, `shrinkage` of the way to the mean of its group.

    Args:
        scores: One for each candidate.
        group: Each candidate's.
        means: Of the scores in each group.
        shrinkage: From 0, which leaves scores as they are, to 1.
        group_mean: Takes the place of the means once scores are shrunk; None: nothing does.
    """
    found = np.asarray(scores + shrinkage * (means[group] - scores))
    return found if group_mean is None else found + (group_mean - means)[group]


@dataclass(frozen=True)
class CheckpointWeights:
    """Which checkpoints give the means of groups, and which the differences within a group."""

    means: Float[np.ndarray, " checkpoints"]
    """What each checkpoint counts for in the means of groups, together 1."""
    within: Float[np.ndarray, " checkpoints"]
    """The same for the differences from them."""

    def split(
        self, scores: Sequence[Float[np.ndarray, " n"]]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The scores that give the means of groups, and those that rank within a group."""
        of_means, within = (
            np.average(scores, axis=0, weights=weights) for weights in (self.means, self.within)
        )
        return of_means, within


def shrunk_split(
    of_means: Float[np.ndarray, " n"],
    within: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    is_counted: Bool[np.ndarray, " n"],
    shrinkage: float,
) -> Float[np.ndarray, " n"]:
    """The scores of `CheckpointWeights.split`, shrunk, with the means of the first in each group.

    Args:
        of_means: Scores that give the means of groups.
        within: Scores that rank within a group.
        group: Each candidate's.
        is_counted: Whose scores the means are over.
        shrinkage: As `shrunk`.
    """
    means = []
    for scores in (of_means, within):
        moments = GroupMoments(int(group.max(initial=0)) + 1)
        moments.add(group[is_counted], scores[is_counted])
        means.append(moments.means())
    return shrunk(within, group, means[1], shrinkage, means[0])


def _shrunk_means(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    total, num_groups = counts.sum(), len(counts)
    means, mean = sums / counts, sums.sum() / total
    within = max(float((squares - counts * means**2).sum()), 0.0) / max(total - num_groups, 1)
    between = float((counts * (means - mean) ** 2).sum()) / max(num_groups - 1, 1)
    # Groups of so many candidates would have the same expected spread between them.
    typical = (total - (counts**2).sum() / total) / max(num_groups - 1, 1)
    variance = max(between - within, 0.0) / typical if typical else 0.0
    if not variance:
        return np.full(num_groups, mean)
    reliability = variance * counts / (variance * counts + within)
    return np.asarray(mean + reliability * (means - mean))
