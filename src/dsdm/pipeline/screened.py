"""How much of what scoring the whole pool would select a screening has found, by its sample.

The sample's rows are drawn at random and scored exactly, whatever is predicted of them, and each is
predicted by what was learned of the others. So the share of its best rows that are predicted to be
above the cut is what the screening finds of the best rows of the pool.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import load_manifest
from dsdm.evaluation.intervals import Interval, share_interval
from dsdm.experiment import Experiment
from dsdm.pipeline.run import Run
from dsdm.pipeline.score_stages import SCREENING, combined, load_sample
from dsdm.pipeline.select_stages import SELECTION

FILLERS = 0.01
"""Share of the selected that may be short candidates from far below, which fill a token budget."""


@dataclass(frozen=True)
class Screened:
    """What a finished selection from a screened pool is worth."""

    rows: int
    scored: int
    """Rows that were scored exactly."""
    recall: Interval
    """Of rows that score as much as the selected ones, the share that was scored exactly."""
    worth: float
    """The same by what their scores are above the pool's mean: the best are missed least."""

    @property
    def text(self) -> str:
        """One sentence."""
        low, high = self.recall.low, self.recall.high
        return (
            f"{self.scored / self.rows:.1%} of {self.rows:,} rows scored exactly; they hold an "
            f"estimated {self.recall.mean:.0%} ({low:.0%} to {high:.0%}) of what scoring all would "
            f"select, and {self.worth:.0%} of its gain"
        )


def screened_selection(run_folder: Path, experiment: Experiment) -> Screened | None:
    """What the selection in a run's folder is worth; None where its pool was not screened."""
    method = experiment.selecting_method
    folder, selection = run_folder / SCREENING / method, run_folder / "selection" / SELECTION
    manifests = [load_manifest(path) for path in (run_folder / "scores" / method).glob("[!.]*")]
    counts = [m.counts for m in manifests if m is not None and "scored" in m.counts]
    if load_manifest(folder) is None or not counts or not selection.exists():
        return None
    moved: Experiment = msgspec.structs.replace(experiment, run=str(run_folder))
    run, sample = Run(moved, reads_pool=False), load_sample(folder)
    exact = combined(run, method, sample.exact)
    selected = pq.read_table(selection, columns=["score"])["score"].to_numpy()
    is_best = exact >= np.quantile(selected, FILLERS)
    is_found = combined(run, method, sample.predicted) >= sample.cut
    rows, scored = (int(sum(one[name] for one in counts)) for name in ("rows", "scored"))
    # The sample itself is scored whatever is predicted.
    drawn = len(exact) / rows
    found = share_interval(int((is_best & is_found).sum()), int(is_best.sum()))
    gains = np.where(is_best, exact - exact.mean(), 0.0)
    worth = float(gains[is_found].sum() / gains.sum()) if gains.any() else np.nan
    return Screened(
        rows,
        scored,
        Interval(*(drawn + (1 - drawn) * share for share in (found.mean, found.low, found.high))),
        drawn + (1 - drawn) * worth,
    )
