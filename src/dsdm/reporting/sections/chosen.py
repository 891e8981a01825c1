"""What each arm of a comparison was trained on: from which sources, and how much two arms share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dsdm.artifacts import load_manifest
from dsdm.reporting.measured import AT_BUDGET
from dsdm.reporting.section import section
from dsdm.reporting.sections.sources import summed_beyond
from dsdm.reporting.view import RunView
from dsdm.stages.compare import ROWS

MOST_SOURCES = 20
POOL = "pool"


@section("chosen", order=40, title="What each arm chose")
def chosen(run: RunView) -> dict[str, Any] | None:
    """The rows that each arm's first seed was trained on, each counted once.

    Other budgets of an arm are left out: they choose alike.
    """
    arms = run.experiment.compare.arms if run.experiment.compare else ()
    rows = {}
    for arm in (arm for arm in arms if AT_BUDGET not in arm):
        folder = run.compare_folder / "models" / f"{arm}-0"
        if load_manifest(folder) is not None:
            rows[arm] = np.load(folder / ROWS)
    if not rows or run.scores is None:
        return None
    sources = run.scores.sources[run.examples.candidate_of_row]
    names, lengths = run.scores.source_names, run.examples.lengths
    return {
        "sources": chosen_sources(rows, lengths, sources, names, MOST_SOURCES),
        "overlap": chosen_overlap(rows, len(lengths)) if len(rows) > 1 else None,
    }


def chosen_sources(
    rows: Mapping[str, np.ndarray],
    lengths: Int[np.ndarray, " rows"],
    sources: Int[np.ndarray, " rows"],
    source_names: Sequence[str],
    most_sources: int,
) -> dict[str, Any]:
    """Each arm's share of tokens by source, the sources that some arm favours first.

    Args:
        rows: Distinct rows by arm.
        lengths: Tokens in each row of the pool.
        sources: The source of each row, as a place in `source_names`.
        source_names: Their names.
        most_sources: So many are shown apart; the rest is summed.

    Returns:
        `arms`, the pool first; `sources`; `shares`, shape (arms, sources), each arm's sum to 1, or
        to 0 for an arm without rows; `num_other`, the sources that are summed in the last.
    """
    everything = {POOL: np.arange(len(lengths))} | dict(rows)
    tokens = np.stack(
        [
            np.bincount(sources[some], lengths[some].astype(np.float64), len(source_names))
            for some in everything.values()
        ]
    )
    shares = tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-shares.max(axis=0), kind="stable")
    names, shares, num_other = summed_beyond(most_sources, source_names, shares, order)
    return {"arms": list(everything), "sources": names, "num_other": num_other, "shares": shares}


def chosen_overlap(rows: Mapping[str, np.ndarray], num_rows: int) -> dict[str, Any]:
    """The share of rows that each arm has in common with each other arm.

    Args:
        rows: Distinct rows by arm.
        num_rows: Rows in the pool.

    Returns:
        `arms`; `num_rows` of each; `shares`, shape (arms, arms): of the first arm's rows, what the
        second was trained on too; `by_chance`: the share that rows drawn at random would have in
        common with each arm.
    """
    sizes = np.array([len(some) for some in rows.values()], np.int64)
    common = np.zeros((len(rows), len(rows)))
    for i, first in enumerate(rows.values()):
        is_first = np.zeros(num_rows, bool)
        is_first[first] = True
        common[i] = [is_first[second].sum() for second in rows.values()]
    shares = common / np.maximum(sizes, 1)[:, None]
    return {
        "arms": list(rows),
        "num_rows": sizes.tolist(),
        "shares": shares,
        "by_chance": sizes / num_rows,
    }
