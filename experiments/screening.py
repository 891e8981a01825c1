"""What screening keeps of a full scoring, and what it costs.

    python experiments/screening.py [EXPERIMENT.yaml] [--key value ...]

Scores the experiment's pool in full, then screened in RUN-screened with the same proxies and
directions, and compares what the two select: `screening.*` figures. The default is a seed of the
comparison's primary cell.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow.parquet as pq
from linked import link_parts
from record import figure, write_figures

from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import Experiment, load_experiment
from dsdm.pipeline import run_experiment
from dsdm.pipeline.costs import measured_costs
from dsdm.pipeline.scores_table import SCORES
from dsdm.pipeline.screened import screened_selection

SHARED = ("tokenizer", "examples", "targets", "overlap", "proxies", "directions")
PRIMARY = Path(__file__).parent / "compare" / "mixed.yaml"
SEED_0 = [("run", "../runs/compare-mixed-0")]
TOP = (0.05, 0.1)
"""Shares of the candidates whose selection is compared."""


def main() -> None:
    """Makes what is missing, then writes the figures."""
    named = [word for word in sys.argv[1:2] if not word.startswith("--")]
    words = sys.argv[1 + len(named) :]
    overrides = [(k.removeprefix("--"), v) for k, v in zip(words[::2], words[1::2], strict=True)]
    path = Path(named[0]) if named else PRIMARY
    full = load_experiment(path, [*([] if named else SEED_0), *overrides])
    run_experiment(full, until="selection")
    screened = load_experiment(
        path,
        [
            *overrides,
            ("run", f"{full.run}-screened"),
            ("scores.screening", "{}"),
            ("compare.arms", "[top]"),  # not `bottom`, which needs all scores
        ],
    )
    link_parts(full.folder, screened.folder, SHARED)
    run_experiment(screened, until="selection")
    method = full.selecting_method
    exact, part = (_scores(one, method) for one in (full, screened))
    rows = []
    for share in TOP:
        count = int(share * len(exact))
        best, chosen = np.argsort(-exact)[:count], np.argsort(-part)[:count]
        name, unit = f"screening.top{share:.0%}".replace("%", ""), "of the full selection's"
        worth = float(exact[chosen].sum() / exact[best].sum())
        rows.append(figure(f"{name}.score", worth, f"{unit} total score"))
        rows.append(figure(f"{name}.recall", float(np.isin(best, chosen).mean()), unit))
    found = screened_selection(screened.folder, screened)
    assert found is not None
    assert found.recall is not None
    recall, unit = found.recall, "of the full selection's, by the sample alone"
    cost, whole = (_cost(one, method) for one in (screened, full))
    rows += [
        figure("screening.estimated_recall", recall.mean, unit, recall.low, recall.high),
        figure("screening.estimated_gain", found.worth, unit),
        figure("screening.rows", found.scored / found.rows, "of the pool's rows"),
        figure("screening.flops", cost.flops / whole.flops, "of the full scoring's"),
        figure("screening.seconds", cost.seconds / whole.seconds, "of the full scoring's"),
    ]
    write_figures("screening", rows)


def _scores(experiment: Experiment, method: str) -> np.ndarray:
    table = pq.read_table(experiment.folder / "scores" / "all" / SCORES, columns=[method])
    return np.asarray(table[method].to_numpy(), np.float64)


def _cost(experiment: Experiment, method: str) -> MethodCost:
    """Of scoring, and of what it was screened by."""
    costs = measured_costs(experiment.folder)
    screening = costs.get(f"screening/{method}", MethodCost())
    return screening + costs[f"scores/{method}"]


if __name__ == "__main__":
    main()
