"""How much to select and from where: the configuration, and what it comes to for a pool."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np

from dsdm.config import Config
from dsdm.errors import ConfigError, DataError
from dsdm.selection.scores import Scores


class SelectionConfig(Config, frozen=True):
    """How much to select, and what besides the score decides. Exactly one budget is given."""

    tokens: float | None = None
    """Budget in tokens, such as 1e9."""
    candidates: int | None = None
    """Budget in candidates."""
    fraction: float | None = None
    """Budget as a share of the pool's tokens, above 0 and at most 1."""
    source_cap: dict[str, float] | float | None = None
    """Largest share of the budget from one source: one number for all, or one for each named."""
    source_floor: dict[str, float] = msgspec.field(default_factory=dict)
    """Smallest share of the budget from a source, kept to within one candidate."""
    random_share: float = 0.0
    """Share of the budget filled with random candidates instead of the best."""
    temperature: float = 0.0
    """Scale of Gumbel noise added to standardised scores. 0: none; 1: sampling like softmax."""
    near_duplicates: float | None = None
    """Leave out a candidate at this Jaccard similarity to one already chosen, such as 0.8."""
    seed: int = 0
    """Seed of the noise and of the random share."""

    def __post_init__(self) -> None:
        """Refuses values that contradict each other or stand outside their range."""
        budgets = {"tokens": self.tokens, "candidates": self.candidates, "fraction": self.fraction}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                "selection: give exactly one budget of `tokens`, `candidates` and `fraction`; got "
                f"{', '.join(f'{name}={value}' for name, value in given.items()) or 'none'}."
            )
        for name in ("tokens", "candidates"):
            if name in given and not 1 <= given[name] < math.inf:
                raise ConfigError(f"selection: `{name}` is {given[name]}; give at least 1.")
        _check_shares(self)
        if not 0 <= self.temperature < math.inf or self.seed < 0:
            raise ConfigError("selection: `temperature` and `seed` must be 0 or a positive number.")


@dataclass(frozen=True)
class Limits:
    """What a configuration comes to for one pool, in tokens or candidates as the budget is."""

    costs: np.ndarray
    """What each candidate takes of the budget."""
    budget: int
    ranked: int
    """The part of the budget that floors and scores may use; what is left goes by chance."""
    source_rooms: np.ndarray | None
    """The most that may come from each source; None where nothing is capped."""
    floors: list[tuple[int, int]]
    """Code of each source with a floor, and the least to take from it."""


def make_limits(
    scores: Scores, config: SelectionConfig, factor: int | float | Fraction = 1
) -> Limits:
    """The limits for this pool, with `factor` times the budget.

    Raises:
        ConfigError: a rule names a source that the pool lacks, or the budget is below 1.
        DataError: the pool has less than the budget, a cap or a floor asks for.
    """
    _require_sources(scores, config)
    costs = scores.num_tokens
    if config.candidates is not None:
        costs = np.broadcast_to(np.int64(1), len(costs))  # takes no memory
    num_tokens = int(scores.num_tokens.sum(dtype=np.int64))
    budget = budget_of(config, len(scores.values), num_tokens, factor)
    totals = np.zeros(0)
    if config.source_cap is not None or config.source_floor:
        totals = np.zeros(len(scores.source_names), np.int64)
        np.add.at(totals, scores.sources, costs)
    return Limits(
        costs=costs,
        budget=budget,
        ranked=budget - math.floor(_exact(config.random_share) * budget),
        source_rooms=_source_rooms(config, scores.source_names, totals, budget),
        floors=_floors(config, scores.source_names, totals, budget),
    )


def budget_of(
    config: SelectionConfig,
    num_candidates: int,
    num_tokens: int,
    factor: int | float | Fraction = 1,
) -> int:
    """The budget for a pool of this size, as a whole number of tokens or candidates.

    Args:
        config: Says how much, and in which unit.
        num_candidates: In the pool.
        num_tokens: In the pool.
        factor: Multiplies the budget, before it is rounded down; a fraction ends at the whole pool.

    Raises:
        ConfigError: it is below 1.
        DataError: it is more than the pool has.
    """
    budget, total = _budget(config, num_candidates, num_tokens, factor)
    unit = "tokens" if config.candidates is None else "candidates"
    if budget < 1:
        raise ConfigError(f"selection: the budget is {float(budget):g} {unit}; give at least 1.")
    if budget > total:
        raise DataError(
            f"selection: the budget is {math.floor(budget):,} {unit}, but the pool has only "
            f"{total:,}. Lower the budget or add data."
        )
    return math.floor(budget)


def selected_tokens(
    config: SelectionConfig,
    num_candidates: int,
    num_tokens: int,
    factor: int | float | Fraction = 1,
) -> int:
    """The budget in tokens, where candidates count by the pool's mean length.

    The pool need not hold it. Arguments are those of `budget_of`.
    """
    budget, total = _budget(config, num_candidates, num_tokens, factor)
    return math.floor(budget * num_tokens / max(1, total))


def selected_share(
    config: SelectionConfig, num_candidates: int | float, num_tokens: int | float
) -> float:
    """The budget as a share of a pool of this size, which need not hold it."""
    budget, total = _budget(config, num_candidates, num_tokens, 1)
    return float(budget) / total


def _budget(
    config: SelectionConfig,
    num_candidates: int | float,
    num_tokens: int | float,
    factor: int | float | Fraction,
) -> tuple[Fraction, int | float]:
    """The exact budget, and what the pool has of its unit."""
    # A factor such as 4 / 12 is one third.
    times = Fraction(factor).limit_denominator(1_000_000)
    if config.candidates is not None:
        return times * config.candidates, num_candidates
    if config.tokens is not None:
        return times * _exact(config.tokens), num_tokens
    return min(Fraction(1), times * _exact(config.fraction or 0)) * Fraction(num_tokens), num_tokens


def decides_by_score(config: SelectionConfig) -> bool:
    """Whether scores and the budget alone decide, but for a random share."""
    is_ruled = config.source_cap is not None or config.near_duplicates is not None
    return not (is_ruled or config.source_floor or config.temperature > 0)


def _source_rooms(
    config: SelectionConfig, names: tuple[str, ...], totals: np.ndarray, budget: int
) -> np.ndarray | None:
    caps = _caps(config, names)
    if not caps:
        return None
    rooms = [_exact(caps.get(name, 1.0)) * budget for name in names]
    reachable = sum(map(min, rooms, totals.tolist()))
    if reachable < budget:
        raise DataError(
            f"selection: `source_cap` leaves {math.floor(reachable):,} of the {budget:,} that the "
            "budget asks for. Raise the caps or lower the budget."
        )
    return np.array([math.floor(room) for room in rooms])


def _floors(
    config: SelectionConfig, names: tuple[str, ...], totals: np.ndarray, budget: int
) -> list[tuple[int, int]]:
    floors = []
    for name, share in sorted(config.source_floor.items()):
        source, least = names.index(name), math.ceil(_exact(share) * budget)
        if totals[source] < least:
            raise DataError(
                f"selection: `source_floor` asks for {least:,} from source {name!r}, which has "
                f"only {totals[source]:,}. Lower the floor or the budget."
            )
        floors.append((source, least))
    return floors


def _require_sources(scores: Scores, config: SelectionConfig) -> None:
    unknown = sorted({*_caps(config, ()), *config.source_floor} - set(scores.source_names))
    if unknown:
        raise ConfigError(
            f"selection: the pool has no source {unknown[0]!r}; it has "
            f"{', '.join(scores.source_names)}."
        )


def _caps(config: SelectionConfig, names: tuple[str, ...]) -> Mapping[str, float]:
    if isinstance(config.source_cap, dict):
        return config.source_cap
    return {} if config.source_cap is None else dict.fromkeys(names, config.source_cap)


def _check_shares(config: SelectionConfig) -> None:
    floors, caps = config.source_floor, _caps(config, ("*", *config.source_floor))
    _require_share("fraction", config.fraction, positive=True)
    _require_share("near_duplicates", config.near_duplicates, positive=True)
    _require_share("random_share", config.random_share)
    for name, share in caps.items():
        _require_share(f"source_cap of {name}", share, positive=True)
    for name, share in floors.items():
        _require_share(f"source_floor of {name}", share)
        if share > caps.get(name, 1.0):
            raise ConfigError(f"selection: the floor of source {name!r} is above its cap.")
    if sum(map(_exact, floors.values())) + _exact(config.random_share) > 1:
        raise ConfigError("selection: `source_floor` and `random_share` add up to more than 1.")


def _require_share(name: str, share: float | int | None, positive: bool = False) -> None:
    if share is None or (0 <= share <= 1 and not (positive and share == 0)):
        return
    least = "above 0" if positive else "from 0"
    raise ConfigError(f"selection: `{name}` is {share}; it must be a share {least} to 1.")


def _exact(share: float | int) -> Fraction:
    """The number as it was written: 0.29 of 100 is 29, where floats give 28.999999999999996."""
    return Fraction(repr(float(share)))
