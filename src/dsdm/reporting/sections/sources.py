"""Where the selected tokens come from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsdm.reporting.section import section
from dsdm.reporting.view import RunView

MOST_SOURCES = 40


@dataclass(frozen=True)
class SourceShare:
    """One source's part of the selection and of the pool; shares are of tokens, in 0..1."""

    name: str
    selected_share: float
    pool_share: float
    selected_candidates: int
    pool_candidates: int
    mean_score: float

    @property
    def ratio(self) -> float:
        """How many times as common in the selection as in the pool."""
        return self.selected_share / self.pool_share if self.pool_share else math.nan


@section("sources", order=60, title="Sources")
def sources(run: RunView) -> dict[str, Any] | None:
    """The sources with the most selected tokens first."""
    scores = run.scores
    if scores is None:
        return None
    tokens, is_selected = scores.num_tokens.astype(np.float64), np.zeros(len(scores.values), bool)
    is_selected[run.selected] = True
    sums = np.stack(
        [
            np.bincount(scores.sources, weights, len(scores.source_names))
            for weights in (is_selected * tokens, tokens, is_selected, None, scores.values)
        ]
    )
    order = np.lexsort((np.arange(sums.shape[1]), -sums[1], -sums[0]))
    names, sums, num_other = summed_beyond(MOST_SOURCES, scores.source_names, sums, order)
    selected_total, pool_total = max(sums[0].sum(), 1.0), sums[1].sum()
    lines = [
        SourceShare(
            name=name,
            selected_share=selected_tokens / selected_total,
            pool_share=pool_tokens / pool_total,
            selected_candidates=int(num_selected),
            pool_candidates=int(num_pool),
            mean_score=score / max(num_pool, 1),
        )
        for name, (selected_tokens, pool_tokens, num_selected, num_pool, score) in zip(
            names, sums.T.tolist(), strict=True
        )
    ]
    return {"sources": lines, "num_other": num_other, "score_digits": run.score_digits}


def summed_beyond(
    most: int, names: Sequence[str], columns: np.ndarray, order: np.ndarray
) -> tuple[list[str], np.ndarray, int]:
    """Names and their columns in an order, those beyond `most` summed in one; how many those are.

    A single one beyond `most` is kept.
    """
    names, columns = [names[i] for i in order], columns[:, order]
    num_other = len(names) - most if len(names) > most + 1 else 0
    if num_other:
        rest = columns[:, most:].sum(axis=1, keepdims=True)
        names, columns = [*names[:most], "other sources"], np.hstack([columns[:, :most], rest])
    return names, columns, num_other
