"""The greedy choice by score alone, in bounded memory: scores are read in blocks, some times over.

A histogram finds where the budget runs out. Everything before that fits; only candidates about
that place are sorted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dsdm.selection.rules import SelectionConfig, budget_of, ranked_part
from dsdm.selection.scores import Scores, not_finite

WINDOW = 1 << 20
"""Candidates that are sorted at once."""

Block = tuple[np.ndarray, np.ndarray]
"""Of neighbouring candidates: scores (floating point) and token counts, or keys and costs."""
Read = Callable[[], Iterator[Block]]
"""Reads the blocks of all candidates from the first on, each time that it is called."""
Open = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Blocks of what may still be taken: candidates, ordered keys, costs."""

_BINS = 1 << 16
_SHIFTS = (48, 32, 16, 0)
_LAST_KEY = (1 << 64) - 1
_LAST_INDEX = (1 << 63) - 1


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and from how much."""

    is_chosen: np.ndarray
    """bool, shape (candidates,)."""
    num_tokens: int
    """Tokens in what was chosen."""
    pool_tokens: int
    """Tokens in all candidates."""

    @staticmethod
    def of(candidates: np.ndarray, scores: Scores) -> "Chosen":
        """The given candidates of a pool whose scores are in memory."""
        is_chosen = np.zeros(len(scores.values), bool)
        is_chosen[candidates] = True
        tokens = scores.num_tokens
        return Chosen(is_chosen, int(tokens[candidates].sum()), int(tokens.sum()))


def is_plain(config: SelectionConfig) -> bool:
    """Whether scores, the budget and a random share alone decide, so that scores can be streamed.

    Caps, floors and near-duplicates ask about one candidate after another; a temperature needs the
    spread of all scores.
    """
    is_ruled = config.source_cap is not None or config.near_duplicates is not None
    return not (is_ruled or config.source_floor or config.temperature > 0)


def select_streaming(
    read: Read,
    config: SelectionConfig,
    *,
    method: str,
    bottom: bool = False,
    refused: np.ndarray | None = None,
) -> Chosen:
    """What `select` chooses; held are one byte a candidate, one block and one window.

    Args:
        read: reads scores and token counts.
        config: one that `is_plain`.
        method: whose scores they are, for messages.
        bottom: takes the worst instead of the best, as a control.
        refused: sorted candidates that are never taken.

    Raises:
        NumericalError: a score is NaN or infinite.
        DataError: the pool is smaller than the budget.
        ConfigError: the budget is below 1.
    """
    if not is_plain(config):
        raise ValueError("select_streaming() obeys a budget and a random share, no other rule.")
    num_candidates, pool_tokens = _totals(read, method)
    budget = budget_of(config, num_candidates, pool_tokens)
    is_chosen = np.zeros(num_candidates, bool)
    costs = _costs(read, config, refused)

    def ranked() -> Iterator[Block]:
        return ((values if bottom else -values, block) for values, block in costs())

    def shuffled() -> Iterator[Block]:
        rng = np.random.default_rng([config.seed, 1])
        return ((rng.random(len(block)), block) for _, block in costs())

    used = take_best(ranked, ranked_part(config, budget), is_chosen)
    if config.random_share > 0:
        used += take_best(shuffled, budget - used, is_chosen)
    num_tokens = used if config.candidates is None else _tokens_of(read, is_chosen)
    return Chosen(is_chosen, num_tokens, pool_tokens)


def take_best(read: Read, room: int, is_chosen: np.ndarray) -> int:
    """Marks in `is_chosen` what fits the room, smallest key first; returns what that costs.

    Ties go in order of index; a candidate that doesn't fit is skipped, one already chosen is left
    alone. Two passes over the keys in most cases.
    """
    boundary = _find_boundary(read, room, is_chosen)
    window = _take_before(boundary, _open(read, room, is_chosen), is_chosen)
    left = _take_in_order(window, boundary.room, is_chosen)
    while left >= boundary.least and window.end < (_LAST_KEY, _LAST_INDEX):
        window = _next_window(_open(read, left, is_chosen), *window.end)
        left = _take_in_order(window, left, is_chosen)
    return room - left


@dataclass(frozen=True)
class _Boundary:
    """Where the room runs out: all candidates before (`key`, `index`) fit."""

    key: int
    index: int
    last: int
    """Last key of the bin that no longer fits whole."""
    room: int
    """What those before it leave."""
    least: int
    """The smallest cost of all."""


def _find_boundary(read: Read, room: int, is_chosen: np.ndarray) -> _Boundary:
    """Narrows the keys' range down to few candidates, 16 bits of the key at a time."""
    low, left, least = 0, room, None
    for shift in _SHIFTS:
        counts, totals, smallest = _histogram(_open(read, room, is_chosen), low, shift)
        least = smallest if least is None else least
        is_over = np.cumsum(totals) > left
        over = int(np.argmax(is_over)) if is_over.any() else _BINS
        left -= int(totals[:over].sum())
        if over == _BINS:
            # Only of the first histogram, for each later one covers a bin that doesn't fit.
            return _Boundary(_LAST_KEY, len(is_chosen), _LAST_KEY, left, least)
        low += over << shift
        if counts[over] <= WINDOW:
            return _Boundary(low, 0, low + (1 << shift) - 1, left, least)
    return _among_ties(_open(read, room, is_chosen), low, left, least or 0)


def _histogram(blocks: Open, low: int, shift: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Count and total cost of each bin of 2^shift keys from `low` on, and the least cost of all."""
    counts, totals = np.zeros(_BINS, np.int64), np.zeros(_BINS)
    least = _LAST_INDEX
    for _, keys, costs in blocks:
        # Keys below `low` wrap around to beyond the last bin.
        bins = (keys - np.uint64(low)) >> np.uint64(shift)
        least = min(least, int(costs.min(initial=least)))
        bins, own = _where(bins < _BINS, bins, costs)
        bins = bins.astype(np.intp)
        counts += np.bincount(bins, minlength=_BINS)
        # Sums of whole numbers below 2^53 are exact.
        totals += np.bincount(bins, own, _BINS)
    return counts, totals, least


def _among_ties(blocks: Open, key: int, left: int, least: int) -> _Boundary:
    """The block of candidates, all with this key, that no longer fits whole."""
    for candidates, keys, costs in blocks:
        total = int(costs[keys == key].sum())
        if total > left:
            return _Boundary(key, int(candidates[0]), key, left, least)
        left -= total
    raise AssertionError("ties that fit were not a boundary")


def _take_before(boundary: _Boundary, blocks: Open, is_chosen: np.ndarray) -> "_Window":
    """Takes what comes before the boundary; the rest of its bin is returned."""
    window = _Window(boundary.last)
    for candidates, keys, costs in blocks:
        is_tie = keys == boundary.key
        is_before = (keys < boundary.key) | (is_tie & (candidates < boundary.index))
        is_chosen[candidates[is_before]] = True
        is_next = ~is_before & (keys <= boundary.last)
        window.add(candidates[is_next], keys[is_next], costs[is_next])
    return window


def _next_window(blocks: Open, key: int, index: int) -> "_Window":
    """The first candidates after a key and index."""
    window = _Window()
    for candidates, keys, costs in blocks:
        is_after = (keys > key) | ((keys == key) & (candidates > index))
        window.add(candidates[is_after], keys[is_after], costs[is_after])
    return window


def _take_in_order(window: "_Window", room: int, is_chosen: np.ndarray) -> int:
    """Takes a window's candidates by the greedy rule, a whole run at a time; the room left.

    A run ends at the first candidate that no longer fits. All that don't fit in the room left go
    with it, so the next run starts with one that does.
    """
    candidates, costs = window.in_order()
    while len(candidates):
        totals = np.cumsum(costs)
        length = int(np.searchsorted(totals, room, side="right"))
        if length:
            room -= int(totals[length - 1])
            is_chosen[candidates[:length]] = True
        candidates, costs = candidates[length:], costs[length:]
        fits = costs <= room
        candidates, costs = candidates[fits], costs[fits]
    return room


class _Window:
    """The first WINDOW of the candidates that are added, in order of key and index.

    They are added in order of index.
    """

    def __init__(self, last_key: int = _LAST_KEY) -> None:
        self.end = (last_key, _LAST_INDEX)
        """Key and index up to which every candidate that was added is here."""
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, candidates: np.ndarray, keys: np.ndarray, costs: np.ndarray) -> None:
        """Keeps those that don't come after the end."""
        # A candidate is not added twice, so one with the end's key has a greater index.
        is_within = keys <= self.end[0] if self.end[1] == _LAST_INDEX else keys < self.end[0]
        self._parts.append((candidates[is_within], keys[is_within], costs[is_within]))
        self._count += len(self._parts[-1][0])
        if self._count > 2 * WINDOW:
            self._sort()

    def in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """The candidates in order, and their costs."""
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        self._sort()
        return self._parts[0][0], self._parts[0][2]

    def _sort(self) -> None:
        candidates, keys, costs = map(np.concatenate, zip(*self._parts, strict=True))
        order = np.argsort(keys, kind="stable")
        if len(order) > WINDOW:
            order = order[:WINDOW]
            self.end = (int(keys[order[-1]]), int(candidates[order[-1]]))
        self._parts = [(candidates[order], keys[order], costs[order])]
        self._count = len(order)


def _open(read: Read, room: int, is_chosen: np.ndarray) -> Open:
    first = 0
    for keys, costs in read():
        end = first + len(costs)
        is_open = costs <= room
        is_open &= ~is_chosen[first:end]
        candidates, open_keys, open_costs = _where(is_open, np.arange(first, end), keys, costs)
        yield candidates, _ordered(open_keys), open_costs
        first = end


def _where(mask: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The masked part of each array; often that is all, which is quicker to see than to copy."""
    return arrays if mask.all() else tuple(array[mask] for array in arrays)


def _ordered(keys: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the keys; 0.0 and -0.0 are one."""
    width = 32 if keys.dtype == np.float32 else 64
    # Adding 0 makes 0.0 of -0.0.
    bits = (keys.astype(f"f{width // 8}", copy=False) + 0.0).view(f"i{width // 8}")
    # Below zero all bits turn around, else the sign's.
    flipped = (bits >> (width - 1)) | np.iinfo(bits.dtype).min
    ordered: np.ndarray = (bits ^ flipped).view(f"u{width // 8}").astype(np.uint64)
    ordered <<= np.uint64(64 - width)
    return ordered


def _costs(read: Read, config: SelectionConfig, refused: np.ndarray | None) -> Read:
    """Scores and what each candidate takes of the budget; a refused one costs more than any has."""

    def blocks() -> Iterator[Block]:
        first = 0
        for values, num_tokens in read():
            costs = num_tokens if config.candidates is None else np.ones(len(values), np.int64)
            if refused is not None:
                low, high = np.searchsorted(refused, [first, first + len(values)])
                costs = costs.astype(np.int64)
                costs[refused[low:high] - first] = _LAST_INDEX
            yield values, costs
            first += len(values)

    return blocks


def _totals(read: Read, method: str) -> tuple[int, int]:
    """Candidates and tokens; raises NumericalError where a score is no finite number."""
    num_candidates = num_tokens = num_bad = 0
    first_bad = None
    for values, tokens in read():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad) and first_bad is None:
            first_bad = num_candidates + int(bad[0]), float(values[bad[0]])
        num_bad += len(bad)
        num_candidates += len(values)
        num_tokens += int(tokens.sum())
    if first_bad is not None:
        raise not_finite(method, num_bad, num_candidates, *first_bad)
    return num_candidates, num_tokens


def _tokens_of(read: Read, is_chosen: np.ndarray) -> int:
    first = total = 0
    for _, num_tokens in read():
        total += int(num_tokens[is_chosen[first : first + len(num_tokens)]].sum())
        first += len(num_tokens)
    return total
