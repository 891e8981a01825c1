"""The baselines that there are, by name. Registering one and its settings needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsdm.config import Config
from dsdm.registry import Registry

if TYPE_CHECKING:
    from dsdm.baselines.inputs import BaselineInputs
    from dsdm.selection import Scores


class NoSettings(Config):
    """Of a baseline without any."""


Score = Callable[["BaselineInputs", Any], "Scores"]
"""Given inputs and settings: scores of every candidate, higher = keep."""
Passes = Callable[[Any, int, int], float]
"""Given settings, the number of proxies and of all their checkpoints: how many forward passes of a
proxy over the pool a baseline takes; a backward pass is two more."""


@dataclass(frozen=True)
class Baseline:
    """What the rest of the program knows of a baseline."""

    name: str
    score: Score
    settings: type[Config]
    """Its section of `baselines`, each field with a default."""
    help: str
    """One line about it."""
    sees_targets: bool
    """Whether its scores depend on the targets."""
    reads_proxies: Callable[[Any], bool]
    """Given its settings: whether it reads the proxies, so that new ones make it stale."""
    needs_moments: bool
    """Whether it reads Adam's moments at the proxies' checkpoints."""
    passes: Passes
    check: Callable[[Any], None]
    """Given its settings: raises ModelError where a package that it needs is not installed."""


BASELINES: Registry[Baseline] = Registry("dsdm.baselines")
"""The baselines by their names."""


def baseline(
    name: str,
    *,
    help: str,
    settings: type[Config] = NoSettings,
    sees_targets: bool = True,
    reads_proxies: bool | Callable[[Any], bool] = False,
    needs_moments: bool = False,
    passes: Passes = lambda settings, num_proxies, num_checkpoints: 0.0,
    check: Callable[[Any], None] = lambda settings: None,
) -> Callable[[Score], Score]:
    """A decorator that registers a baseline; arguments as the fields of `Baseline`.

    Raises:
        ValueError: the name can't be a section of the settings.
    """
    if not name.isidentifier():
        raise ValueError(f"baseline {name!r}: its name must be letters, digits and `_`")

    def reads(own: Any) -> bool:
        return reads_proxies(own) if callable(reads_proxies) else reads_proxies

    def register(function: Score) -> Score:
        found = Baseline(
            name, function, settings, help, sees_targets, reads, needs_moments, passes, check
        )
        BASELINES.add(name, found)
        return function

    return register
