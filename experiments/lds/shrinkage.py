"""What drawing scores towards the means of like texts is worth, judged by the bank.

    python experiments/lds/shrinkage.py [--setup SETUP.yaml]

Run lds.py first. EK-FAC's scores of the set-up's run are merged at several shrinkages, which scores
nothing again; the run is left at the default. Beside the LDS stands what the bank's losses say of
the two parts of the slopes: the means of their sources, and what differs within sources. A part
counts for 1 where it comes true as it is.
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
from record import figure, write_figures
from scipy import stats

from dsdm.datamodel.config import DEFAULT_SHRINKAGE
from dsdm.evaluation.intervals import CONFIDENCE
from dsdm.experiment import load_experiment
from dsdm.pipeline import Run, run_experiment
from dsdm.pipeline.bank_scores import Rival, rival_scores
from dsdm.pipeline.bank_stages import make_bank
from dsdm.pipeline.select_stages import run_scores
from dsdm.trust.bank import Bank
from dsdm.trust.lds import lds_board

METHOD = "ekfac"
DEFAULT = DEFAULT_SHRINKAGE[METHOD]
SHRINKAGES = (0.0, 0.6, 0.8, DEFAULT)
PROXIES = (1, 2, 4)
REGRESSED = 2
"""Proxies whose scores are taken apart."""
UNIT = "rank correlation"


def main() -> None:
    """Writes `lds_shrinkage.SETUP.*` figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).with_name("scratch.yaml")
    parser.add_argument("--setup", type=Path, default=default)
    setup = parser.parse_args().setup
    scores = {}
    for shrinkage in SHRINKAGES:
        overrides = [("scores.shrinkage", str(shrinkage))] if shrinkage != DEFAULT else []
        run = run_experiment(load_experiment(setup, overrides), until="scores")
        bank = make_bank(run, bank_config(setup), known=read_losses(setup))
        for count in PROXIES:
            found = rival_scores(run, Rival(METHOD, count), bank.num_candidates)
            scores[f"{count}_proxies.{shrinkage:g}"] = found
    board, prefix = lds_board(bank, scores), f"lds_shrinkage.{setup.stem}"
    rows = []
    for kind in board.kinds:
        behind = KINDS[kind][1]
        for name in scores:
            lds = board.interval(name, kind)
            rows.append(figure(f"{prefix}.{name}{behind}", lds.mean, UNIT, lds.low, lds.high))
        for count in PROXIES:
            drawn, slopes = (f"{count}_proxies.{by:g}" for by in (DEFAULT, 0))
            less = board.difference(drawn, slopes, kind)
            name = f"{prefix}.{count}_proxies.minus_slopes{behind}"
            rows.append(figure(name, less.mean, UNIT, less.low, less.high))
    slopes = scores[f"{REGRESSED}_proxies.0"]
    write_figures(f"lds_shrinkage_{setup.stem}", [*rows, *part_figures(run, bank, slopes, prefix)])


def part_figures(
    run: Run, bank: Bank, slopes: Mapping[str, np.ndarray], prefix: str
) -> Iterator[dict[str, Any]]:
    """What each part of the slopes counts for, by least squares, with Student's t-intervals."""
    source = run_scores(run, METHOD).sources[: bank.num_candidates]
    for kind in KINDS:
        part = bank.of_kind(kind)
        shares = part.inclusion * part.tokens
        shares = shares / shares.sum(1, keepdims=True)
        for target, values in slopes.items():
            of_source = (np.bincount(source, values) / np.bincount(source))[source]
            parts = np.stack([of_source, values - of_source, np.ones_like(values)], 1)
            inputs, gain = shares @ parts, -part.losses[target].mean(1)
            found = np.linalg.lstsq(inputs, gain, rcond=None)[0]
            left = gain - inputs @ found
            freedom = len(gain) - parts.shape[1]
            variance = left @ left / freedom
            errors = np.sqrt(variance * np.diag(np.linalg.inv(inputs.T @ inputs)))
            for number, name in enumerate(("between_sources", "within_sources")):
                ends = stats.t.interval(CONFIDENCE, freedom, found[number], errors[number])
                unit = f"of what the slopes say, {REGRESSED} proxies"
                place = f"{prefix}.{target}.{name}{KINDS[kind][1]}"
                yield figure(place, float(found[number]), unit, *map(float, ends))


if __name__ == "__main__":
    main()
