"""The type at the seam between methods that score and the code that selects."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dsdm.errors import NumericalError


@dataclass(frozen=True)
class Scores:
    """What one method thinks of every candidate. Every method returns this, ours or a baseline."""

    values: np.ndarray
    """Utility: higher = keep. Floating point, shape (candidates,)."""
    num_tokens: np.ndarray
    """Tokens in each candidate, integers."""
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Position of each candidate's source in `source_names`, int32; left out: all are of one."""
    source_names: tuple[str, ...] = ("",)
    method: str = ""
    target: str = ""
    fingerprint: str = ""
    """Identifies what was scored and how."""

    def __post_init__(self) -> None:
        """Refuses arrays of different lengths, which would pair scores with wrong candidates."""
        if not len(self.sources) and self.source_names == ("",):
            # Takes no memory.
            sources = np.broadcast_to(np.int32(0), len(self.values))
            object.__setattr__(self, "sources", sources)
        lengths = {len(self.values), len(self.num_tokens), len(self.sources)}
        if len(lengths) > 1 or not np.issubdtype(self.values.dtype, np.floating):
            raise ValueError(
                f"Scores need floating-point values and one token count and source for each; got "
                f"{len(self.values)} values of type {self.values.dtype}, "
                f"{len(self.num_tokens)} token counts, {len(self.sources)} sources."
            )

    def require_finite(self) -> None:
        """Raises NumericalError where a value is NaN or infinite."""
        bad = ~np.isfinite(self.values)
        if bad.any():
            first = int(np.argmax(bad))
            raise NumericalError(
                f"Method {self.method!r} gave {int(bad.sum()):,} of {len(bad):,} candidates a "
                f"score that is not a finite number; the first is candidate {first} with "
                f"{self.values[first]}. Nothing was selected: look at its text and at the scorer."
            )


def concat_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several tables as those of one, in order; sources are told by their names."""
    first = parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.source_names))
    code = {name: number for number, name in enumerate(names)}
    codes = [np.array([code[name] for name in part.source_names], np.int32) for part in parts]
    sources = [own[part.sources] for own, part in zip(codes, parts, strict=True)]
    return Scores(
        values=np.concatenate([part.values for part in parts]),
        num_tokens=np.concatenate([part.num_tokens for part in parts]),
        sources=np.concatenate(sources),
        source_names=names,
        method=first.method,
        target=first.target,
        fingerprint="+".join(part.fingerprint for part in parts),
    )
