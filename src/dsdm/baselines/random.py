"""The baseline that every method must beat: a uniformly random selection."""

import numpy as np

from dsdm.selection import Scores


def random_scores(
    num_tokens: np.ndarray,
    sources: np.ndarray,
    source_names: tuple[str, ...],
    seed: int,
    fingerprint: str,
) -> Scores:
    """Scores whose ranking is a uniformly random order of the candidates."""
    return Scores(
        values=np.random.default_rng(seed).random(len(num_tokens)),
        num_tokens=num_tokens,
        sources=sources,
        source_names=source_names,
        method="random",
        target="",
        fingerprint=fingerprint,
    )
