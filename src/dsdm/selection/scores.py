"""The type at the seam between methods that score and the code that selects."""

from dataclasses import dataclass

import numpy as np

from dsdm.errors import NumericalError


@dataclass(frozen=True)
class Scores:
    """What one method thinks of every candidate. Every method returns this, ours or a baseline."""

    values: np.ndarray
    """Utility: higher = keep. Floating point, shape (candidates,)."""
    num_tokens: np.ndarray
    """Tokens in each candidate, int64."""
    sources: np.ndarray
    """Position of each candidate's source in `source_names`, int32."""
    source_names: tuple[str, ...]
    method: str
    target: str
    fingerprint: str
    """Identifies what was scored and how."""

    def __post_init__(self) -> None:
        """Refuses arrays of different lengths, which would pair scores with wrong candidates."""
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
            raise not_finite(self.method, int(bad.sum()), len(bad), first, self.values[first])


def not_finite(method: str, bad: int, count: int, first: int, value: float) -> NumericalError:
    """The error for `bad` of `count` scores that are NaN or infinite, `first` with `value`."""
    return NumericalError(
        f"Method {method!r} gave {bad:,} of {count:,} candidates a score that is not a finite "
        f"number; the first is candidate {first} with {value}. Nothing was selected: look at its "
        "text and at the scorer."
    )
