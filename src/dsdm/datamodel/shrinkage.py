"""Scores drawn towards the mean of their group, which predict retraining better.

What texts of one kind do to a target is known well: their mean score is over many of them. What
makes one text better than another of its kind is known less well, because a slope at a trained
proxy stands for what that text does in a whole training. So a score becomes

    group's mean + (1 - shrinkage) (score - group's mean)

Groups are those of `topics`. The mean of a small group is itself drawn towards the pool's, as in a
one-way model with random effects: by how much follows from the spread within and between groups
(Searle, Casella and McCulloch, Variance Components, 1992, chapter 3). Where groups do not differ,
all are drawn to one point, and the order of candidates stays.
"""

import numpy as np
from jaxtyping import Float, Int


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

    def means(self) -> Float[np.ndarray, " groups"]:
        """What the scores of each group are drawn towards; 0 of a group that was not seen."""
        seen = self._counts > 0
        drawn = np.zeros(len(seen))
        if seen.any():
            drawn[seen] = _drawn_means(self._counts[seen], self._sums[seen], self._squares[seen])
        return drawn


def shrunk(
    scores: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    means: Float[np.ndarray, " groups"],
    shrinkage: float,
    worth: Float[np.ndarray, " groups"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Each score, `shrinkage` of the way to the mean of its group.

    With `worth` that is what the groups are worth in place of their means.
    """
    drawn = np.asarray(scores + shrinkage * (means[group] - scores))
    return drawn if worth is None else drawn + (worth - means)[group]


def _drawn_means(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
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
