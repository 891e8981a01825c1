"""What drawing scores towards the means of like texts is worth, judged by the bank.

    python experiments/lds/shrinkage.py [--setup SETUP.yaml]

Run lds.py first. EK-FAC's scores of the set-up's run are merged at several shrinkages, each in a
run of its own, which scores nothing again. Beside the LDS stands what the losses of random halves
say of the two parts of the slopes, the means of their sources and what differs within sources: what
a unit within counts for over a unit between, by least squares. At 1 nothing is to be drawn.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from lds import KINDS, bank_config, read_losses
from linked import TEXTS, link_parts
from record import figure, write_figures

from dsdm.datamodel.config import TRAITS
from dsdm.evaluation.intervals import bootstrap_interval
from dsdm.experiment import load_experiment
from dsdm.pipeline import Run, run_experiment
from dsdm.pipeline.bank_scores import Rival, rival_scores
from dsdm.pipeline.bank_stages import make_bank
from dsdm.pipeline.select_stages import run_scores
from dsdm.trust.bank import Bank
from dsdm.trust.lds import lds_board

METHOD = "ekfac"
DEFAULT = TRAITS[METHOD].shrinkage
SHRINKAGES = (0.0, DEFAULT, 0.6, 0.8)
PROXIES = (1, 2, 4)
REGRESSED = 2
"""Proxies whose scores are taken apart."""
REPLICATES = 2000
UNIT = "rank correlation"
RATIO_UNIT = f"ratio of two coefficients, {REGRESSED} proxies; bootstrap over halves"
SHARED = (*TEXTS, "topics", "proxies", "directions", "scores")


def main() -> None:
    """Writes `lds_shrinkage.SETUP.*` figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).with_name("scratch.yaml")
    parser.add_argument("--setup", type=Path, default=default)
    setup = parser.parse_args().setup
    run = Run(load_experiment(setup))
    bank = make_bank(run, bank_config(setup), known=read_losses(setup))
    scores = {}
    for shrinkage in SHRINKAGES:
        drawn = drawn_run(run, setup, shrinkage)
        for count in PROXIES:
            found = rival_scores(drawn, Rival(METHOD, count), bank.num_candidates)
            scores[f"{count}_proxies.{shrinkage:g}"] = found
    board, prefix = lds_board(bank, scores), f"lds_shrinkage.{setup.stem}"
    rows = []
    for kind in board.kinds:
        behind = KINDS[kind][1]
        for name in scores:
            lds = board.interval(name, kind)
            rows.append(figure(f"{prefix}.{name}{behind}", lds.mean, UNIT, lds.low, lds.high))
        for count in PROXIES:
            names = (f"{count}_proxies.{by:g}" for by in (DEFAULT, 0))
            less = board.difference(*names, kind)
            name = f"{prefix}.{count}_proxies.minus_slopes{behind}"
            rows.append(figure(name, less.mean, UNIT, less.low, less.high))
    slopes = scores[f"{REGRESSED}_proxies.0"]
    write_figures(f"lds_shrinkage_{setup.stem}", [*rows, *part_figures(run, bank, slopes, prefix)])


def drawn_run(run: Run, setup: Path, shrinkage: float) -> Run:
    """A run with the slopes of the set-up's, merged at another shrinkage."""
    folder = run.folder.with_name(f"{run.folder.name}-shrinkage-{shrinkage:g}")
    link_parts(run.folder, folder, SHARED)
    overrides = [("run", str(folder)), ("scores.shrinkage", f"{shrinkage:g}")]
    return run_experiment(load_experiment(setup, overrides), until="scores")


def part_figures(
    run: Run, bank: Bank, slopes: Mapping[str, np.ndarray], prefix: str
) -> Iterator[dict[str, Any]]:
    """By target, what a unit of slope within sources counts for against one between them."""
    source = run_scores(run, METHOD).sources[: bank.num_candidates]
    halves = bank.of_kind("half")
    shares = halves.inclusion * halves.tokens
    shares = shares / shares.sum(1, keepdims=True)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(shares), size=(REPLICATES, len(shares)))
    for target, values in slopes.items():
        of_source = (np.bincount(source, values) / np.bincount(source))[source]
        parts = np.stack([of_source, values - of_source, np.ones_like(values)], 1)
        inputs, gain = shares @ parts, -halves.losses[target].mean(1)
        ratios = np.array([_within_over_between(inputs[d], gain[d]) for d in drawn])
        ratio = bootstrap_interval(_within_over_between(inputs, gain), ratios)
        name = f"{prefix}.{target}.within_over_between"
        yield figure(name, ratio.mean, RATIO_UNIT, ratio.low, ratio.high)


def _within_over_between(inputs: np.ndarray, gain: np.ndarray) -> float:
    between, within, _ = np.linalg.lstsq(inputs, gain, rcond=None)[0]
    return float(within / between)


if __name__ == "__main__":
    main()
