"""The greedy choice: best first, skipping what does not fit or what a rule forbids.

Two histograms of the scores find where the budget runs out. All candidates before that place fit,
and only those about it are sorted. So a choice by score and budget alone needs 1 byte a candidate
beside the scores and their token counts, and a random share or a temperature 4 more.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dsdm.selection.rules import Limits, SelectionConfig, make_limits
from dsdm.selection.scores import Scores

BLOCK = 1 << 17
"""Candidates that are looked at together: their arrays fit the processor's cache."""
BINS = 1 << 16
WINDOW = 1 << 14
"""Fewest candidates that are sorted together."""
OPEN, TAKEN, SKIPPED, REFUSED = range(4)
"""States of a candidate. SKIPPED: did not fit, and may fit a larger limit."""


def select(
    scores: Scores | np.ndarray,
    config: SelectionConfig | None = None,
    *,
    num_tokens: np.ndarray | None = None,
    factor: int | float | Fraction = 1,
    bottom: bool = False,
    refused: np.ndarray | None = None,
    is_refused: Callable[[int], bool] | None = None,
    **rules: Any,
) -> Int[np.ndarray, " chosen"]:
    """Sorted unique candidate indices (int64) that fit the budget.

    Candidates are taken in order of score, ties in order of index; one that would exceed the
    budget or its source's cap is skipped. Floors are filled first, the random share last.

    Args:
        scores: Of every candidate, higher = keep; a plain array of shape (candidates,) will do.
        config: The budget and the rules; or give them by name, such as `fraction=0.05`.
        num_tokens: Tokens in each candidate, for scores in a plain array; None: one each.
        factor: Multiplies the budget.
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
    is_chosen = choose(
        scores, config, factor=factor, bottom=bottom, refused=refused, is_refused=is_refused
    )
    return np.asarray(np.flatnonzero(is_chosen))


def choose(
    scores: Scores,
    config: SelectionConfig,
    *,
    factor: int | float | Fraction = 1,
    bottom: bool = False,
    refused: np.ndarray | None = None,
    is_refused: Callable[[int], bool] | None = None,
) -> Bool[np.ndarray, " candidates"]:
    """Which candidates `select` takes: 1 byte for each of the pool, not 8 for each that is chosen.

    Arguments and errors are those of `select`.
    """
    if config.near_duplicates is not None and is_refused is None:
        raise ValueError("`near_duplicates` is set: select() needs `is_refused`.")
    scores.require_finite()
    limits = make_limits(scores, config, factor)
    basket = _Basket(limits, scores.sources, refused, is_refused)
    ranking = _Ranking(scores.values, is_rising=bottom)
    if config.temperature > 0:
        ranking = _Ranking(_noisy_keys(scores.values, config, bottom), is_rising=True)
    for source, least in limits.floors:
        basket.fill(ranking, limits.budget, source=source, least=least)
    basket.fill(ranking, limits.ranked)
    del ranking
    if config.random_share > 0:
        order = np.random.default_rng([config.seed, 1]).random(len(scores.values), np.float32)
        basket.fill(_Ranking(order, is_rising=True), limits.budget)
    is_chosen: np.ndarray = basket.state == TAKEN
    return is_chosen


class _Ranking:
    """The order in which candidates are taken: smallest key first, ties in order of index."""

    def __init__(self, values: np.ndarray, *, is_rising: bool) -> None:
        self._values, self._is_rising = values, is_rising
        self.bits = 64 if values.dtype.itemsize > 4 else 32
        self.last_key = (1 << self.bits) - 1

    def keys(self, block: slice) -> np.ndarray:
        """Unsigned integers in the order of the values."""
        # Adding 0 makes 0.0 of -0.0.
        floats = self._values[block].astype(f"f{self.bits // 8}", copy=False) + 0.0
        bits = floats.view(f"i{self.bits // 8}")
        # Below zero all bits turn around, else the sign's.
        bits ^= (bits >> (self.bits - 1)) | np.iinfo(bits.dtype).min
        keys: np.ndarray = bits.view(f"u{self.bits // 8}")
        return keys if self._is_rising else ~keys


class _Basket:
    """The candidates chosen so far, with what they use of the budget and of the sources' caps."""

    def __init__(
        self,
        limits: Limits,
        sources: np.ndarray,
        refused: np.ndarray | None,
        is_refused: Callable[[int], bool] | None,
    ) -> None:
        self.state = np.zeros(len(limits.costs), np.uint8)
        if refused is not None:
            self.state[refused] = REFUSED
        self._used, self._costs = 0, limits.costs
        self._sources, self._is_refused = sources, is_refused
        self._rooms = None if limits.source_rooms is None else limits.source_rooms.copy()

    def fill(
        self,
        ranking: _Ranking,
        limit: int,
        *,
        source: int | None = None,
        least: int | float = math.inf,
    ) -> None:
        """Takes what fits, in order of the ranking.

        Args:
            ranking: The order.
            limit: The most that may be used of the budget, what is used already included.
            source: Takes from this source alone; None: from all.
            least: Stops when so much is taken.
        """
        is_ruled = self._rooms is not None or self._is_refused is not None or source is not None
        if not is_ruled and len(self.state) > WINDOW:
            self._take_before_the_limit(ranking, limit)
        while least > 0 and len(window := self._window(ranking, limit, source, least)):
            least -= self._take_one_by_one(window, limit, least)
            self.state[window[self.state[window] == OPEN]] = SKIPPED
        for block in self._blocks():
            self.state[block][self.state[block] == SKIPPED] = OPEN

    def _take_before_the_limit(self, ranking: _Ranking, limit: int) -> None:
        """Takes all candidates before the first that exceeds the limit, without sorting them."""
        room = limit - self._used
        edge = self._edge(ranking, room, room, None, by_cost=True)
        for block in self._blocks():
            before = self._is_open(block, room, None) & (ranking.keys(block) < edge)
            self.state[block][before] = TAKEN
            self._used += int(self._costs[block][before].sum(dtype=np.int64))
        for block in self._blocks():
            is_tie = self._is_open(block, room, None) & (ranking.keys(block) == edge)
            ties = block.start + np.flatnonzero(is_tie)
            totals = self._used + np.cumsum(self._costs[ties], dtype=np.int64)
            num_fitting = int(np.searchsorted(totals, limit, side="right"))
            if num_fitting:
                self.state[ties[:num_fitting]] = TAKEN
                self._used = int(totals[num_fitting - 1])
            if num_fitting < len(ties):
                return

    def _edge(
        self, ranking: _Ranking, total: int, room: int, source: int | None, *, by_cost: bool
    ) -> int:
        """The first key with which the open candidates come to more than `total`.

        The last key that there can be where all of them come to less.

        Args:
            ranking: The order.
            total: In candidates, or `by_cost`.
            room: Candidates that cost more are not open.
            source: Those of other sources are not open; None: all may be.
            by_cost: Whether costs are added, or candidates counted.
        """
        low = 0
        for shift in range(ranking.bits - 16, -1, -16):
            sums = np.zeros(BINS)
            for block in self._blocks():
                # Keys below `low` wrap around to beyond the last bin.
                bins = (ranking.keys(block) - low) >> shift
                counted = self._is_open(block, room, source) & (bins < BINS)
                costs = self._costs[block][counted] if by_cost else None
                sums += np.bincount(bins[counted].astype(np.intp), costs, BINS)
            # Sums of whole numbers below 2^53 are exact.
            ends = np.cumsum(sums)
            over = int(np.searchsorted(ends, total, side="right"))
            if over == BINS:
                return ranking.last_key
            total -= int(ends[over - 1]) if over else 0
            low += over << shift
        return low

    def _window(
        self, ranking: _Ranking, limit: int, source: int | None, least: int | float
    ) -> Int[np.ndarray, " window"]:
        """The first open candidates in order: about as many as there is room for."""
        room = limit - self._used
        num_open = cost_open = 0
        for block in self._blocks():
            costs = self._costs[block][self._is_open(block, room, source)]
            num_open += len(costs)
            cost_open += int(costs.sum(dtype=np.int64))
        count = 1.05 * min(room, least) * num_open / max(cost_open, 1)
        # Sorting takes some 30 bytes a candidate.
        count = math.ceil(max(WINDOW, min(count, len(self.state) / 16)))
        edge = ranking.last_key
        if count < num_open:
            edge = self._edge(ranking, count, room, source, by_cost=False)
        before, keys_before, ties, num_ties = [], [], [], 0
        for block in self._blocks():
            keys, is_open = ranking.keys(block), self._is_open(block, room, source)
            is_before = is_open & (keys < edge)
            before.append(block.start + np.flatnonzero(is_before))
            keys_before.append(keys[is_before])
            if num_ties < count:
                ties.append(block.start + np.flatnonzero(is_open & (keys == edge)))
                num_ties += len(ties[-1])
        order = np.argsort(np.concatenate(keys_before), kind="stable")
        return np.concatenate([np.concatenate(before)[order], *ties])[:count]

    def _take_one_by_one(
        self, order: Int[np.ndarray, " window"], limit: int, least: int | float
    ) -> int:
        """Takes candidates in their order, every rule asked, until `least` is taken; returns it."""
        taken = 0
        for start in range(0, len(order), WINDOW):
            part = order[start : start + WINDOW]
            part = part[self._fits(self._costs[part], self._sources[part], limit - self._used)]
            for candidate, cost in zip(part.tolist(), self._costs[part].tolist(), strict=True):
                if taken >= least:
                    return taken
                if self._used + cost <= limit and self._admits(candidate, cost):
                    self.state[candidate] = TAKEN
                    taken += cost
                    self._used += cost
        return taken

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

    def _is_open(self, block: slice, room: int, source: int | None) -> Bool[np.ndarray, " block"]:
        """Which candidates may still be taken."""
        is_open: np.ndarray = self.state[block] == OPEN
        is_open &= self._fits(self._costs[block], self._sources[block], room)
        if source is not None:
            is_open &= self._sources[block] == source
        return is_open

    def _fits(
        self, costs: np.ndarray, sources: np.ndarray, room: int
    ) -> Bool[np.ndarray, " candidates"]:
        """Which candidates the budget and the caps have room for."""
        fits: np.ndarray = costs <= room
        if self._rooms is not None:
            fits &= costs <= self._rooms[sources]
        return fits

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.state), BLOCK):
            yield slice(start, min(start + BLOCK, len(self.state)))


def _noisy_keys(values: np.ndarray, config: SelectionConfig, bottom: bool) -> np.ndarray:
    """Standardised scores with Gumbel noise; the smallest key is taken first."""
    rng = np.random.default_rng([config.seed, 0])
    keys = values.copy()
    mean = float(values.mean(dtype=np.float64))
    blocks = [slice(start, start + BLOCK) for start in range(0, len(keys), BLOCK)]
    squares = sum(float(np.square(values[block] - mean).sum(dtype=np.float64)) for block in blocks)
    spread = math.sqrt(squares / len(keys)) or 1.0
    for block in blocks:
        signed = values[block] / spread if bottom else -values[block] / spread
        keys[block] = signed - config.temperature * rng.gumbel(size=len(signed))
    return keys
