"""Settings of the directions, judged by a bank: what a default is worth.

    python experiments/lds/variants.py [VARIANT ...] [--setup SETUP.yaml] [--subsets N]

Each variant takes the set-up's own proxies (the first two) and changes one setting of the
directions, or takes another estimator than EK-FAC. Its LDS stands beside that of the set-up as it
is, with the paired difference. All are of slopes, none of them drawn by shrinkage. Run lds.py
first; with `--subsets` a bank that is not finished serves with its first subsets.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lds import KINDS, bank_config, read_losses
from linked import TEXTS, link_parts
from record import add_figures, figure

from dsdm.experiment import Experiment, load_experiment
from dsdm.pipeline import Run, run_experiment
from dsdm.pipeline.bank_scores import Rival, rival_scores
from dsdm.pipeline.bank_stages import make_bank
from dsdm.trust.lds import Board, lds_board

PROXIES = 2
PLAIN = "plain"
SHARED = (*TEXTS, "proxies")
VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "answers": (("directions.context_share", "0"),),
    "half_context": (("directions.context_share", "0.5"),),
    "trak_of_the_paper": (
        ("directions.estimators", "[trak]"),
        ("directions.output", "margin"),
        ("directions.context_share", "0"),
    ),
    "damping0.01": (("directions.damping", "0.01"),),
    "damping1": (("directions.damping", "1"),),
    "damping10": (("directions.damping", "10"),),
    "damping100": (("directions.damping", "100"),),
    "blocks": (("directions.embeddings", "false"),),
    "sampled": (("directions.labels", "sampled"),),
    "metagradient": (("directions.estimators", "[metagradient]"),),
    "metagradient_whole": (("directions.estimators", "[metagradient]"), ("directions.tail", "1")),
    "margin": (("directions.output", "margin"),),
    "rows128": (("directions.curvature_rows", "128"),),
    "rows512": (("directions.curvature_rows", "512"),),
}


def main() -> None:
    """Scores what is missing and writes `lds_variants.SETUP.*` figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).with_name("scratch.yaml")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--setup", type=Path, default=default)
    parser.add_argument("--subsets", type=int, metavar="N", help="the first N of each kind")
    options = parser.parse_args()
    chosen = options.variants or list(VARIANTS)
    if unknown := set(chosen) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    main_run = Run(load_experiment(options.setup))
    config = bank_config(options.setup, options.subsets)
    bank = make_bank(main_run, config, known=read_losses(options.setup))
    scores = {}
    for name in (PLAIN, *chosen):
        run = scored(main_run, options.setup, name)
        (method,) = run.experiment.estimators
        scores[name] = rival_scores(run, Rival(method, PROXIES), bank.num_candidates)
    board = lds_board(bank, scores)
    print_table(board)
    setup = options.setup.stem
    add_figures(f"lds_variants_{setup}", list(figures(board, f"lds_variants.{setup}")))


def scored(main_run: Run, setup: Path, variant: str) -> Run:
    """A run with the main run's proxies, scored in another way."""
    folder = folder_of(main_run, variant)
    link_parts(main_run.folder, folder, SHARED)
    return run_experiment(varied(setup, variant, folder), until="scores")


def folder_of(main_run: Run, name: str) -> Path:
    """Of a run beside the main one."""
    return main_run.folder.with_name(f"{main_run.folder.name}-{name}")


def varied(setup: Path, variant: str, folder: Path) -> Experiment:
    """The set-up with one setting changed, or, where no variant is named so, as it is."""
    overrides = [
        ("directions.estimators", "[ekfac]"),
        *VARIANTS.get(variant, ()),
        ("scores.shrinkage", "0"),
        ("run", str(folder)),
        ("proxies.count", str(PROXIES)),
    ]
    return load_experiment(setup, overrides)


def print_table(board: Board) -> None:
    """LDS, and the difference to the set-up as it is, by kind of subset."""
    for name in board.estimators:
        cells = []
        for kind in board.kinds:
            found = board.interval(name, kind)
            cells.append(f"{KINDS[kind][0]} {found.mean:.3f}")
            if name in VARIANTS:
                less = board.difference(name, PLAIN, kind)
                cells.append(f"({less.mean:+.3f} [{less.low:+.3f}, {less.high:+.3f}])")
        print(f"{name:16}", *cells)


def figures(board: Board, prefix: str) -> Iterator[dict[str, Any]]:
    """Each variant's LDS minus that of the set-up as it is."""
    for name in (name for name in board.estimators if name in VARIANTS):
        for kind in board.kinds:
            found = board.difference(name, PLAIN, kind)
            place = f"{prefix}.{name}_minus_plain{KINDS[kind][1]}"
            yield figure(place, found.mean, "rank correlation", found.low, found.high)


if __name__ == "__main__":
    main()
