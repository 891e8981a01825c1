"""Progress of long work on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tqdm import tqdm

Advance = Callable[[int], None]
"""Called with what was done since the last call, in the unit of the work."""


@dataclass(frozen=True)
class Bars:
    """How a process shows its progress."""

    shown: bool = True
    position: int = 0
    """Line of the terminal, from the bottom."""


BARS: ContextVar[Bars] = ContextVar("bars")
"""Set by workers, which share a terminal or have none."""


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar with rate and time left; the block gets a function that advances it."""
    bars = BARS.get(Bars())
    with tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        unit_scale=unit in ("tokens", "rows", "bytes"),
        mininterval=1.0,
        leave=False,
        position=bars.position,
        disable=not bars.shown,
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance
