"""Whether the probe of `dsdm check` ranks estimators as retraining does.

    python experiments/lds/probe.py [--setup SETUP.yaml] [--subsets N]

Each estimator of the set-up is checked on the first proxy, and all of them are held against the
groups of all those checks: short trainings on what scores high, low and at random. Scores are
of the same proxies as in the table of lds.py, and of the variants that variants.py has scored. Run
both first.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lds import bank_config, read_losses, rivals_of
from linked import link_parts
from record import figure, write_figures
from variants import PROXIES, SHARED, VARIANTS, folder_of

from dsdm.data.examples import Examples
from dsdm.experiment import load_experiment
from dsdm.pipeline import Run
from dsdm.pipeline.bank_scores import Rival, rival_scores
from dsdm.pipeline.bank_stages import make_bank
from dsdm.pipeline.check import run_check
from dsdm.pipeline.check_stages import BEFORE, FOLDER, ORDER, drawn_groups, load_losses
from dsdm.pipeline.scores_table import SCORES
from dsdm.trust.config import CheckConfig
from dsdm.trust.groups import mean_score
from dsdm.trust.lds import TargetScores, lds_board
from dsdm.trust.probe import mean_reductions


@dataclass(frozen=True)
class Groups:
    """What was trained on in the probes, and by how much each target's loss fell."""

    orders: list[np.ndarray]
    """The rows of each group, as often as they were trained on."""
    reductions: Mapping[str, np.ndarray]
    """By target, in nats: one for each group."""


def main() -> None:
    """Makes what is missing and writes `probe.SETUP.*` figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).with_name("scratch.yaml")
    parser.add_argument("--setup", type=Path, default=default)
    parser.add_argument("--subsets", type=int, metavar="N", help="the first N of each kind")
    options = parser.parse_args()
    setup = options.setup
    main_run = Run(load_experiment(setup))
    config = bank_config(setup, options.subsets)
    bank = make_bank(main_run, config, known=read_losses(setup))
    scores = {
        name: rival_scores(main_run, rival, bank.num_candidates)
        for name, rival in rivals_of(main_run.experiment).items()
        if name != "default"
    }
    scores |= variant_scores(main_run, bank.num_candidates)
    groups = probed(main_run, setup)
    board = lds_board(bank, scores)
    lds = {
        name: np.mean([board.interval(name, kind).mean for kind in board.kinds]) for name in scores
    }
    probe = {name: correlation(one, groups, main_run.examples) for name, one in scores.items()}
    for name in sorted(scores, key=probe.__getitem__):
        print(f"{name:20} probe {probe[name]:+.3f}  LDS {lds[name]:+.3f}")
    found = spearmanr([probe[name] for name in scores], [lds[name] for name in scores]).statistic
    prefix, num_groups = f"probe.{setup.stem}", len(groups.orders)
    rows = [
        figure(f"{prefix}.{name}", value, f"rank correlation over {num_groups} groups")
        for name, value in probe.items()
    ]
    unit = f"rank correlation of probe and LDS over {len(scores)} estimators"
    write_figures(f"probe_{setup.stem}", [*rows, figure(f"{prefix}.agreement", found, unit)])


def variant_scores(main_run: Run, num_candidates: int) -> dict[str, TargetScores]:
    """Of the variants that are scored."""
    found = {}
    for name in VARIANTS:
        folder = folder_of(main_run, name)
        if (folder / "scores" / "all" / SCORES).exists():
            run = Run(load_experiment(folder / "experiment.yaml"))
            rival = Rival(run.experiment.selecting_estimator, PROXIES)
            found[name] = rival_scores(run, rival, num_candidates)
    return found


def probed(main_run: Run, setup: Path) -> Groups:
    """The groups of each estimator's check."""
    found = []
    for method in main_run.experiment.estimators:
        folder = folder_of(main_run, f"check-{method}")
        link_parts(main_run.folder, folder, [*SHARED, f"directions/{method}"])
        overrides = [("run", str(folder)), ("estimator", method), ("proxies.count", "1")]
        experiment = load_experiment(setup, overrides)
        run_check(experiment, CheckConfig())
        found.append(_groups(Run(experiment)))
    return Groups(
        [order for groups in found for order in groups.orders],
        {
            target: np.concatenate([groups.reductions[target] for groups in found])
            for target in found[0].reductions
        },
    )


def _groups(run: Run) -> Groups:
    """Those of one finished check."""
    folder = run.folder / FOLDER / "probes"
    rows, groups = drawn_groups(run, CheckConfig())
    paths = [folder / f"{number:02d}" for number in range(len(groups))]
    after = [load_losses(path) for path in paths]
    orders = [rows[np.load(path / ORDER)] for path in paths]
    return Groups(orders, mean_reductions(load_losses(folder / BEFORE), after))


def correlation(scores: TargetScores, groups: Groups, examples: Examples) -> float:
    """Of groups' mean scores with what training on them gained, mean over targets."""
    found = []
    for target, reductions in groups.reductions.items():
        of_row = scores[target][examples.candidate_of_row]
        means = [mean_score(of_row, examples.lengths, order) for order in groups.orders]
        found.append(spearmanr(means, reductions).statistic)
    return float(np.mean(found))


if __name__ == "__main__":
    main()
