"""How much of what scoring the whole pool would select a screening has found, by its sample.

The sample is drawn at random and scored exactly, whatever is predicted of it, and each candidate in
it is predicted by what was learned of the others. So the share of its best candidates that are
predicted to reach the cut is what the screening finds of the best in the pool.
"""

import math
from dataclasses import dataclass

import numpy as np

from dsdm.artifacts import load_manifest
from dsdm.evaluation.intervals import Interval, share_interval
from dsdm.reporting.view import RunView
from dsdm.selection.rules import decides_by_score
from dsdm.stages.scores import load_sample


@dataclass(frozen=True)
class Screened:
    """What a finished selection from a screened pool is worth."""

    rows: int
    scored: int
    """Rows that were scored exactly."""
    unscored: int
    """Selected candidates that are predicted: they fill the budget's last tokens, or shrinkage
    has raised them."""
    recall: Interval | None
    """Of the candidates with the highest slopes, as many as are selected, the share that was scored
    exactly; None where more than scores decides what is selected, or the sample holds none of
    them."""
    worth: float
    """The same by what their scores are above the pool's mean; what takes the place of those that
    were missed is not counted."""

    @property
    def text(self) -> str:
        """One sentence."""
        found = f"{self.scored / self.rows:.1%} of {self.rows:,} rows scored exactly"
        if self.unscored:
            found += f", {self.unscored:,} of the selected candidates predicted"
        if self.recall is None:
            return f"{found}; the sample can't say what they hold of the full selection"
        low, high = self.recall.low, self.recall.high
        return (
            f"{found}; they hold an estimated {self.recall.mean:.0%} ({low:.0%} to {high:.0%}) of "
            f"what scoring all would select, and {self.worth:.0%} of its gain"
        )


def screened_selection(run: RunView) -> Screened | None:
    """What the selection of a run is worth; None where its pool was not screened."""
    estimator, selection = run.experiment.selecting_estimator, run.selection
    if run.manifest(f"screening/{estimator}") is None or selection is None:
        return None
    counts = [load_manifest(path) for path in run.finished(f"scores/{estimator}")]
    screened = [one.counts for one in counts if one is not None and "scored" in one.counts]
    if not screened or run.is_predicted is None:
        return None
    rows, scored = (int(sum(one[name] for one in screened)) for name in ("rows", "scored"))
    unscored = int(run.is_predicted[run.selected].sum())
    chosen = selection.counts["candidates"] / selection.counts["pool_candidates"]
    sample = load_sample(run.folder / "screening" / estimator)
    is_best = sample.scores >= np.quantile(sample.scores, 1 - chosen)
    config = run.experiment.selection
    if not decides_by_score(config) or config.random_share or not is_best.any():
        return Screened(rows, scored, unscored, None, math.nan)
    is_found = sample.predicted >= sample.cut
    found = share_interval(int((is_best & is_found).sum()), int(is_best.sum()))
    gains = np.where(is_best, sample.scores - sample.scores.mean(), 0.0)
    # The sample itself is scored whatever is predicted.
    drawn = len(sample.rows) / rows
    low, mean, high, worth = (
        drawn + (1 - drawn) * share
        for share in (found.low, found.mean, found.high, float(gains[is_found].sum() / gains.sum()))
    )
    return Screened(rows, scored, unscored, Interval(mean, low, high), worth)
