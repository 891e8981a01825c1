"""What a baseline reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsdm.data.sequences import Rows
from dsdm.selection import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ProxyCheckpoint:
    """A proxy at one of its checkpoints."""

    load: Callable[[], "PreTrainedModel"]
    folder: Path
    """Holds Adam's moments there, where they are kept."""
    weight: float
    """What it counts for, those of all proxies together 1."""


@dataclass(frozen=True)
class BaselineInputs:
    """The pool, the targets and the proxies."""

    texts: Callable[[], Iterator[str]]
    """Streams the candidates' texts in order, from the start at every call."""
    targets: Mapping[str, Sequence[str]]
    """Texts of each target's `fit` part, context and answer together."""
    weights: Mapping[str, float]
    """What each target counts for in the mix."""
    num_tokens: np.ndarray
    """Tokens in each candidate, int64, shape (candidates,)."""
    sources: np.ndarray
    """Position of each candidate's source in `source_names`, int32, shape (candidates,)."""
    source_names: tuple[str, ...]
    rows: Rows
    """The pool's rows of tokens."""
    candidate_of_row: np.ndarray
    """The candidate that each row belongs to, int64, never falling, shape (rows,)."""
    proxies: Sequence[Callable[[], "PreTrainedModel"]]
    """Load the trained proxies."""
    seed: int
    fingerprint: str
    """Identifies the pool, the targets and the proxies."""
    target_rows: Mapping[str, Rows] = field(default_factory=dict)
    """The same examples of each target as rows of tokens."""
    checkpoints: Sequence[ProxyCheckpoint] = ()
    """The checkpoints of all proxies."""
    advance: Callable[[int], None] = lambda count: None
    """Called with the number of candidates that a pass has come through."""
    count_flops: Callable[[float], None] = lambda flops: None
    """Called with the FLOPs of each batch that a proxy has read."""

    @property
    def num_candidates(self) -> int:
        """Candidates in the pool."""
        return len(self.num_tokens)

    def scores(self, values: np.ndarray, method: str) -> Scores:
        """Scores of this pool; `values` has shape (candidates,), higher = keep."""
        return Scores(
            values=values,
            num_tokens=self.num_tokens,
            sources=self.sources,
            source_names=self.source_names,
            method=method,
            target="mix",
            fingerprint=self.fingerprint,
        )
