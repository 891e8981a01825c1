"""What screening keeps of a full scoring, what it costs, and what a model trained on it loses.

    python experiments/screening.py [EXPERIMENT.yaml] [--seeds 0 1 2] [--key value ...]

For each seed the experiment's pool is screened, in RUN-SEED, then scored in full, in RUN-SEED-full,
with the same proxies and directions; a model is trained on each selection and evaluated on the tune
part. `screening.*` figures are means over seeds. The default is the comparison's cell of the long
proxy's end, whose runs serve where they are finished.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "compare"))

import numpy as np
import pyarrow.parquet as pq
from linked import TEXTS, experiment_of_seed, link_parts
from record import figure, write_figures
from run import cell_named

from dsdm.evaluation.intervals import paired_t_interval
from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.measured import load_losses, method_cost
from dsdm.reporting.screened import screened_selection
from dsdm.reporting.view import RunView
from dsdm.stages import run_experiment
from dsdm.stages.scores_table import SCORES

SHARED = (*TEXTS, "proxies", "directions")
ARM = "top"
TRAINED = (
    ("compare.arms", f"[{ARM}]"),
    ("compare.parts", "[tune]"),
    ("compare.heldout", "[]"),
)
TOP = {"top5": 0.05, "top10": 0.1}
"""Shares of the candidates whose selection is compared."""
SELECTION = "of the full selection's"
SCORING = "of the full scoring's"
UNITS = {
    **{f"{name}.score": f"{SELECTION} total score" for name in TOP},
    **{f"{name}.recall": SELECTION for name in TOP},
    "estimated_recall": f"{SELECTION}, by the sample alone",
    "estimated_gain": f"{SELECTION}, by the sample alone",
    "rows": "of the pool's rows",
    "flops": SCORING,
    "seconds": SCORING,
    "loss_minus_full": "nats a target token, mean of the mix's targets",
}


def main() -> None:
    """Makes what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", type=Path, nargs="?")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options, words = parser.parse_known_args()
    names = [name.removeprefix("--") for name in words[::2]]
    overrides = list(zip(names, words[1::2], strict=True))
    path = options.experiment
    if path is None:
        cell = cell_named("long")
        path, overrides = cell.path, [*cell.overrides, *overrides]
    found = [measured(path, overrides, seed) for seed in options.seeds]
    write_figures("screening", [mean_figure(name, [one[name] for one in found]) for name in UNITS])


def measured(
    path: Path, overrides: Sequence[tuple[str, str]], seed: int, screening: str = "{}"
) -> dict[str, float]:
    """What one seed's screened run is, beside its full one."""
    shared = [*overrides, *TRAINED]
    screened = experiment_of_seed(path, [*shared, ("scores.screening", screening)], seed)
    run_experiment(screened)
    changed = [("run", f"{screened.run}-full"), ("scores.screening", "null")]
    full = load_experiment(path, [*shared, ("seed", str(seed)), *changed])
    link_parts(screened.folder, full.folder, SHARED)
    run_experiment(full)
    method = full.selecting_estimator
    exact, part = (_scores(one, method) for one in (full, screened))
    values = {}
    for name, share in TOP.items():
        count = int(share * len(exact))
        best, chosen = np.argsort(-exact)[:count], np.argsort(-part)[:count]
        values[f"{name}.score"] = float(exact[chosen].sum() / exact[best].sum())
        values[f"{name}.recall"] = float(np.isin(best, chosen).mean())
    found = screened_selection(RunView(screened.folder, screened))
    assert found is not None
    assert found.recall is not None
    cost, whole = (_cost(one, method) for one in (screened, full))
    return values | {
        "estimated_recall": found.recall.mean,
        "estimated_gain": found.worth,
        "rows": found.scored / found.rows,
        "flops": cost.flops / whole.flops,
        "seconds": cost.seconds / whole.seconds,
        "loss_minus_full": _mean_loss(screened) - _mean_loss(full),
    }


def mean_figure(name: str, values: list[float]) -> dict[str, Any]:
    """The mean over seeds, with its interval where there are several."""
    if len(values) == 1:
        return figure(f"screening.{name}", values[0], f"{UNITS[name]}, 1 seed")
    found, unit = paired_t_interval(np.array(values)), f"{UNITS[name]}, {len(values)} seeds"
    return figure(f"screening.{name}", found.mean, unit, found.low, found.high)


def _scores(experiment: Experiment, method: str) -> np.ndarray:
    table = pq.read_table(experiment.folder / "scores" / "all" / SCORES, columns=[method])
    return np.asarray(table[method].to_numpy(), np.float64)


def _cost(experiment: Experiment, method: str) -> MethodCost:
    """Of scoring, and of what it was screened by."""
    screening, scoring = (
        method_cost(experiment.folder / stage / method) or MethodCost()
        for stage in ("screening", "scores")
    )
    return screening + scoring


def _mean_loss(experiment: Experiment) -> float:
    """Of the trained model, over the targets that are selected for."""
    assert experiment.compare is not None
    targets = [target.name for target in experiment.targets if target.weight > 0]
    losses = load_losses(experiment.folder, "tune", experiment.compare, targets)
    return float(np.mean([values.mean() for values in losses[ARM][0].values()]))


if __name__ == "__main__":
    main()
