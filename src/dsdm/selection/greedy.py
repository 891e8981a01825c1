"""The greedy choice: best first, skipping what does not fit or what a rule forbids.

Only as many candidates are sorted as the budget needs: a partition finds the score of the last of
them. Beside scores and token counts it holds at most 8 bytes a candidate.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dsdm.selection.rules import Limits, SelectionConfig, make_limits
from dsdm.selection.scores import Scores

WINDOW = 1 << 16
"""Fewest candidates that are sorted at a time."""
OPEN, TAKEN, SKIPPED, REFUSED = range(4)
"""Where a candidate stands."""


def select(
    scores: Scores | np.ndarray,
    config: SelectionConfig | None = None,
    *,
    num_tokens: np.ndarray | None = None,
    bottom: bool = False,
    refused: np.ndarray | None = None,
    is_refused: Callable[[int], bool] | None = None,
    **rules: Any,
) -> np.ndarray:
    """Sorted unique candidate indices (int64) that fit the budget.

    Candidates are taken in order of score, ties in order of index; one that would exceed the
    budget or its source's cap is skipped. Floors are filled first, the random share last.

    Args:
        scores: Of every candidate, higher = keep; a plain array of shape (candidates,) will do.
        config: The budget and the rules; or give them by name, such as `fraction=0.05`.
        num_tokens: Tokens in each candidate, for scores in a plain array; None: one each.
        bottom: Takes the worst instead of the best, as a control.
        refused: Candidates that are never taken.
        is_refused: Asked last, only about a candidate that is taken unless it says yes.

    Raises:
        NumericalError: a score is NaN or infinite.
        DataError: the pool, or what a cap or floor needs of it, is smaller than the budget.
        ConfigError: a rule names a source that the pool lacks.
    """
    if not isinstance(scores, Scores):
        tokens = np.ones(len(scores), np.int64) if num_tokens is None else np.asarray(num_tokens)
        scores = Scores(np.asarray(scores, np.float64), tokens)
    config = SelectionConfig(**rules) if config is None else config
    if config.near_duplicates is not None and is_refused is None:
        raise ValueError("`near_duplicates` is set: select() needs `is_refused`.")
    scores.require_finite()
    limits = make_limits(scores, config)
    basket = _Basket(limits, scores.sources, refused, is_refused)
    ranking, is_rising = scores.values, bottom
    if config.temperature > 0:
        noise = np.random.default_rng([config.seed, 0]).gumbel(size=len(ranking))
        spread = float(ranking.std(dtype=np.float64)) or 1.0
        signed = ranking / spread if bottom else -ranking / spread
        ranking, is_rising = signed - config.temperature * noise, True
    for source, least in limits.floors:
        basket.take_enough(ranking, is_rising, source, least)
    basket.fill(ranking, is_rising, limits.ranked)
    if config.random_share > 0:
        order = np.random.default_rng([config.seed, 1]).random(len(ranking))
        basket.fill(order, True, limits.budget)
    return basket.chosen


class _Basket:
    """The candidates chosen so far, with what they use of the budget and of the sources' caps."""

    def __init__(
        self,
        limits: Limits,
        sources: np.ndarray,
        refused: np.ndarray | None,
        is_refused: Callable[[int], bool] | None,
    ) -> None:
        self._state = np.zeros(limits.num_candidates, np.uint8)
        if refused is not None:
            self._state[refused] = REFUSED
        self._used, self._budget, self._costs = 0, limits.budget, limits.costs
        self._sources, self._is_refused = sources, is_refused
        self._rooms = None if limits.source_rooms is None else limits.source_rooms.copy()

    @property
    def chosen(self) -> np.ndarray:
        """Sorted candidates that were taken."""
        return np.asarray(np.flatnonzero(self._state == TAKEN))

    def fill(self, ranking: np.ndarray, is_rising: bool, limit: int) -> None:
        """Takes what fits up to `limit` of the budget, in order of the ranking.

        Args:
            ranking: One number a candidate.
            is_rising: Whether the smallest is taken first, or the largest.
            limit: Of the budget, what is used already included.
        """
        while (num_fitting := int((fits := self._fitting(limit - self._used)).sum())) > 0:
            room = limit - self._used
            mean_cost = 1.0 if self._costs is None else float(np.mean(self._costs, where=fits))
            count = max(math.ceil(1.05 * room / max(mean_cost, 1.0)), WINDOW)
            first = _first(ranking, is_rising, fits, count, num_fitting)
            self._take(first, room, math.inf)
            self._state[first[self._state[first] == OPEN]] = SKIPPED
        # What did not fit here may fit into a larger limit.
        self._state[self._state == SKIPPED] = OPEN

    def take_enough(self, ranking: np.ndarray, is_rising: bool, source: int, least: int) -> None:
        """Takes from one source, in order of the ranking, until at least `least` is taken."""
        fits = (self._state == OPEN) & (self._sources == source)
        order = _first(ranking, is_rising, fits, len(fits), int(fits.sum()))
        self._take(order, self._budget - self._used, float(least))

    def _fitting(self, room: int) -> np.ndarray:
        """Which open candidates the budget and the caps have room for."""
        fits: np.ndarray = self._state == OPEN
        if room < 1:
            fits[:] = False
        elif self._costs is not None:
            fits &= self._costs <= room
        if self._rooms is not None:
            costs = 1 if self._costs is None else self._costs
            fits &= costs <= self._rooms[self._sources]
        return fits

    def _take(self, order: np.ndarray, room: int, enough: float) -> None:
        """Takes candidates in their order while they fit, until `enough` is taken."""
        costs = np.ones(len(order), np.int64) if self._costs is None else self._costs[order]
        if self._rooms is None and self._is_refused is None and enough == math.inf:
            while len(order):
                totals = np.cumsum(costs, dtype=np.int64)
                length = int(np.searchsorted(totals, room, side="right"))
                if length:
                    room -= int(totals[length - 1])
                    self._used += int(totals[length - 1])
                    self._state[order[:length]] = TAKEN
                # A run ends at the first that no longer fits; all like it go with it.
                fits = costs[length:] <= room
                order, costs = order[length:][fits], costs[length:][fits]
            return
        taken = 0
        for candidate, cost in zip(order.tolist(), costs.tolist(), strict=True):
            if taken >= enough:
                return
            if taken + cost <= room and self._admits(candidate, cost):
                self._state[candidate] = TAKEN
                taken += cost
                self._used += cost

    def _admits(self, candidate: int, cost: int) -> bool:
        """Whether its cap has room and nobody refuses it; it then counts as taken."""
        source = self._sources[candidate]
        if self._rooms is not None and cost > self._rooms[source]:
            return False
        if self._is_refused is not None and self._is_refused(candidate):
            return False
        if self._rooms is not None:
            self._rooms[source] -= cost
        return True


def _first(
    ranking: np.ndarray, is_rising: bool, fits: np.ndarray, count: int, num_fitting: int
) -> np.ndarray:
    """The first `count` of the candidates that fit, in order of ranking and index."""
    if count >= num_fitting:
        first = np.flatnonzero(fits)
    else:
        own = ranking[fits]
        last = count - 1 if is_rising else num_fitting - count
        own.partition(last)
        edge = own[last]
        del own
        is_before = ranking < edge if is_rising else ranking > edge
        before = np.flatnonzero(is_before & fits)
        ties = np.flatnonzero((ranking == edge) & fits)[: count - len(before)]
        first = np.concatenate([before, ties])
    own = ranking[first]
    return first[np.argsort(own if is_rising else -own, kind="stable")]
