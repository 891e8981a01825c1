"""The greedy choice: best first, skipping what a rule forbids."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from dsdm.selection.rules import Limits, SelectionConfig, make_limits
from dsdm.selection.scores import Scores
from dsdm.selection.streaming import take_best

CHUNK = 65_536


def select(
    scores: Scores,
    config: SelectionConfig,
    *,
    bottom: bool = False,
    is_refused: Callable[[int], bool] | None = None,
) -> np.ndarray:
    """Sorted unique candidate indices (int64) that fit the budget.

    Candidates are taken in order of score, ties in order of index; one that would exceed the
    budget or its source's cap is skipped. Floors are filled first, the random share last.

    Args:
        scores: of every candidate.
        config: the budget and the rules.
        bottom: takes the worst instead of the best, as a control.
        is_refused: asked last, only about a candidate that is taken unless it says yes.

    Raises:
        NumericalError: a score is NaN or infinite.
        DataError: the pool, or what a cap or floor needs of it, is smaller than the budget.
        ConfigError: a rule names a source that the pool lacks.
    """
    if config.near_duplicates is not None and is_refused is None:
        raise ValueError("`near_duplicates` is set: select() needs `is_refused`.")
    scores.require_finite()
    limits = make_limits(scores, config)
    basket = _Basket(limits, scores.sources, is_refused)
    keys = _ranking_keys(scores.values, config, bottom)
    for source, least in limits.floors:
        basket.take_enough(keys, source, least)
    basket.fill(keys, limits.ranked)
    if config.random_share > 0:
        random_keys = np.random.default_rng([config.seed, 1]).random(len(keys))
        basket.fill(random_keys, limits.budget)
    return np.flatnonzero(basket.chosen)


class _Basket:
    """The candidates chosen so far, with what they use of the budget and of the sources' caps."""

    def __init__(
        self,
        limits: Limits,
        sources: np.ndarray,
        is_refused: Callable[[int], bool] | None,
    ) -> None:
        self.chosen = np.zeros(len(sources), bool)
        self._used = 0
        self._budget, self._costs, self._sources = limits.budget, limits.costs, sources
        self._source_rooms = None if limits.source_rooms is None else limits.source_rooms.copy()
        self._is_refused = is_refused

    def fill(self, keys: np.ndarray, limit: int) -> None:
        """Takes what fits, smallest key first, up to `limit` of the budget.

        Only as many candidates are sorted as the budget needs: sorting the pool would take most
        of the time.
        """
        if self._source_rooms is None and self._is_refused is None:
            blocks = partial(_blocks, keys, self._costs)
            self._used += take_best(blocks, limit - self._used, self.chosen)
            return
        rest = np.flatnonzero(~self.chosen)
        while len(rest := self._fitting(rest, limit - self._used)):
            room = limit - self._used
            count = math.ceil(1.05 * room / max(float(self._costs[rest].mean()), 1.0))
            first, rest = _split(rest, keys, max(count, CHUNK))
            self._take(self._one_by_one(first, room))

    def take_enough(self, keys: np.ndarray, source: int, least: int) -> None:
        """Takes from one source, smallest key first, until at least `least` is taken."""
        members = np.flatnonzero((self._sources == source) & ~self.chosen)
        order, _ = _split(members, keys, len(members))
        self._take(self._one_by_one(order, self._budget - self._used, least))

    def _take(self, blocks: Iterator[np.ndarray]) -> None:
        for block in blocks:
            self.chosen[block] = True
            self._used += int(self._costs[block].sum())

    def _one_by_one(
        self, order: np.ndarray, room: int, enough: float | int = math.inf
    ) -> Iterator[np.ndarray]:
        """Blocks of candidates to take, every rule asked.

        The slow twin of `take_best`: the same where there are no caps and no near-duplicates.
        """
        used = 0
        for start in range(0, len(order), CHUNK):
            block = self._fitting(order[start : start + CHUNK], room - used)
            taken = []
            for candidate, cost in zip(block.tolist(), self._costs[block].tolist(), strict=True):
                if used < enough and used + cost <= room and self._admits(candidate, cost):
                    taken.append(candidate)
                    used += cost
            yield np.array(taken, np.int64)

    def _fitting(self, candidates: np.ndarray, room: int) -> np.ndarray:
        """Those that the budget and the caps have room for."""
        fitting: np.ndarray = candidates[self._costs[candidates] <= room]
        if self._source_rooms is not None:
            source_rooms = self._source_rooms[self._sources[fitting]]
            fitting = fitting[self._costs[fitting] <= source_rooms]
        return fitting

    def _admits(self, candidate: int, cost: int) -> bool:
        """Whether its cap has room and it is no near-duplicate; it then counts as taken."""
        rooms, source = self._source_rooms, self._sources[candidate]
        if rooms is not None and cost > rooms[source]:
            return False
        if self._is_refused is not None and self._is_refused(candidate):
            return False
        if rooms is not None:
            rooms[source] -= cost
        return True


def _split(candidates: np.ndarray, keys: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` of `candidates` with the smallest keys, in order, and the rest as they were.

    Candidates with the key of the last one come along, so that ties keep the order of index.
    """
    own = keys[candidates]
    if count < len(own):
        is_first = own <= np.partition(own, count - 1)[count - 1]
        candidates, rest, own = candidates[is_first], candidates[~is_first], own[is_first]
    else:
        rest = candidates[:0]
    return candidates[np.argsort(own, kind="stable")], rest


def _blocks(keys: np.ndarray, costs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK], costs[start : start + CHUNK]


def _ranking_keys(values: np.ndarray, config: SelectionConfig, bottom: bool) -> np.ndarray:
    """One number a candidate; the smallest is taken first."""
    keys = values if bottom else -values
    if config.temperature > 0:
        noise = np.random.default_rng([config.seed, 0]).gumbel(size=len(keys))
        spread = float(keys.std(dtype=np.float64)) or 1.0
        keys = keys / spread - config.temperature * noise
    return keys
