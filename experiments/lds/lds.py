"""How well each estimator predicts retraining: the table of LDS and cost, and its figures.

    python experiments/lds/lds.py [SETUP.yaml] [--subsets N] [--workers N] [--scores NAME=FILE]

Everything is made through dsdm's stages and kept in the run's folder, so the same command goes on
after an interruption, and another estimator is judged by the same bank in seconds. What the
retrained models lost is added to SETUP_losses.jsonl when they are all trained or the command is
interrupted; models that are in it are not trained again, on this machine or another. NAME=FILE is
an estimator from outside: a Parquet or CSV file with the columns that `dsdm.trust.score_files`
names, for the candidates in RUN/lds/bank/candidates.parquet.

SETUP.yaml is an experiment with four proxies and `scores.per_target`, and SETUP_bank.json beside it
says what is retrained (`dsdm.trust.lds_config`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))
from dsdm.pipeline.bank_scores import (
    COSINE,
    Rival,
    alone_work,
    cosine_work,
    proxy_trainings,
    rival_scores,
)
from dsdm.pipeline.bank_stages import Lost, finished_models, make_bank
from dsdm.pipeline.workers import Maker, workers
from record import figure, read_figures, read_lines, write_figures, write_lines

from dsdm.config import load_config
from dsdm.datamodel.config import DirectionsConfig
from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.intervals import Interval
from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import Experiment, ProxiesConfig, load_experiment
from dsdm.stages import Run, Workers, run_experiment
from dsdm.trust.bank import Bank
from dsdm.trust.lds import CEILING, RANDOM, Board, lds_board, random_board
from dsdm.trust.lds_config import LdsConfig
from dsdm.trust.score_files import read_scores

BASELINES = ("bm25", "dsir")
RIVALS = {
    "ekfac1": Rival("ekfac", 1),
    "ekfac": Rival("ekfac", 4),
    "trak1": Rival("trak", 1),
    "trak4": Rival("trak", 4),
    "gradient2": Rival("gradient", 2),
    "gradient": Rival("gradient", 4),
    "cosine": Rival("cosine", 4),
    "metagradient1": Rival("metagradient", 1),
    "metagradient": Rival("metagradient", 4),
    **{name: Rival(name) for name in BASELINES},
}
"""Those whose estimator the set-up has are in its table, and the default for its model first."""
PAIRS = (
    ("default", "bm25"),
    ("default", "gradient"),
    ("default", "gradient2"),
    ("default", "trak4"),
    ("ekfac", "trak4"),
    ("metagradient", "trak4"),
    ("metagradient", "gradient"),
)
KINDS = {"half": ("random halves", ""), "skewed": ("source-skewed subsets", ".skewed")}
"""What each kind is called in the table, and behind a figure's name."""


def main(arguments: list[str] | None = None) -> None:
    """Makes what is missing, prints the table and writes `lds.SETUP.*` figures."""
    options = _options(arguments)
    experiment = load_experiment(options.setup)
    config = bank_config(options.setup, options.subsets)
    who = Workers(options.workers)
    run = run_experiment(experiment, until="scores", workers=who, announce=_announce)
    _make_scores(run, who)
    known = read_losses(options.setup)
    try:
        bank = make_bank(run, config, known=known, workers=who, announce=_announce)
    finally:
        _write_losses(options.setup, known | finished_models(run, config))
    rivals = rivals_of(experiment)
    scores = {name: rival_scores(run, one, bank.num_candidates) for name, one in rivals.items()}
    for name, file in options.scores:
        scores[name] = read_scores(file, list(bank.losses), bank.num_candidates)
    boards = lds_board(bank, scores), random_board(bank)
    board = Board({**boards[0].samples, **boards[1].samples})
    costs = {name: proxy_trainings(run, rival) for name, rival in rivals.items()} | {
        RANDOM: MethodCost()
    }
    table = "\n".join(_table(bank, board, costs))
    (run.folder / "lds" / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if not options.no_figures:
        _write(options.setup.stem, bank, board, costs)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).with_name("scratch.yaml")
    parser.add_argument("setup", type=Path, nargs="?", default=default)
    parser.add_argument("--subsets", type=int, metavar="N", help="subsets of each kind")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument(
        "--scores",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an estimator from outside; may be given again",
    )
    parser.add_argument("--no-figures", action="store_true", help="print the table alone")
    return parser.parse_args(arguments)


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not name or not equals or name in ("default", *RIVALS, RANDOM, CEILING):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FILE with a new name")
    return name, Path(file)


def rivals_of(experiment: Experiment) -> dict[str, Rival]:
    """Those of the table that a set-up can have."""
    known = {*experiment.estimators, COSINE, *BASELINES}
    unset = msgspec.structs.replace(experiment, directions=DirectionsConfig())
    rivals = {"default": Rival(unset.selecting_estimator, ProxiesConfig().count), **RIVALS}
    return {name: rival for name, rival in rivals.items() if rival.method in known}


def bank_config(setup: Path, subsets: int | None = None) -> LdsConfig:
    """What is retrained for a set-up: all of it, or so many subsets of each kind at most."""
    config = load_config(setup.with_name(f"{setup.stem}_bank.json"), LdsConfig)
    if subsets is None:
        return config
    fewer = {"halves": min(subsets, config.halves), "skewed": min(subsets, config.skewed)}
    changed: LdsConfig = msgspec.structs.replace(config, **fewer)
    return changed


def read_losses(setup: Path) -> dict[str, Lost]:
    """What a set-up's retrained models lost, those of other machines among them."""
    lines = read_lines(_losses_file(setup))
    return {line["model"]: Lost(line["made_of"], line["losses"]) for line in lines}


def _losses_file(setup: Path) -> Path:
    return setup.with_name(f"{setup.stem}_losses.jsonl")


def _write_losses(setup: Path, models: Mapping[str, Lost]) -> None:
    lines = [{"model": name, **vars(models[name])} for name in sorted(models)]
    write_lines(_losses_file(setup), lines)


def _announce(stage: str, made: int, total: int) -> None:
    if total:
        print(f"{stage:12} {made} made, {total - made} already done", file=sys.stderr, flush=True)


def _make_scores(run: Run, who: Workers) -> None:
    """What a run does not score by itself: cosines, and baselines for each target alone."""
    makers: list[Maker] = [cosine_work, partial(alone_work, names=BASELINES)]
    with workers(run.experiment, who) as perform:
        for maker in makers:
            perform(maker, list(maker(run)))


def _table(bank: Bank, board: Board, costs: Mapping[str, MethodCost]) -> Iterator[str]:
    """One table of Markdown for each kind of subset."""
    titles = ["estimator", *board.targets, "of the ceiling", "cost, seconds", "cost, FLOPs"]
    for kind in board.kinds:
        yield f"LDS on {bank.kinds.count(kind)} {KINDS[kind][0]}, {_seeds(bank)} seeds each"
        yield ""
        yield "| " + " | ".join(titles) + " |"
        yield "|---" + "|---:" * (len(titles) - 1) + "|"
        for name in board.estimators:
            cells = [_cell(board.interval(name, kind, target)) for target in board.targets]
            cells += [_share(board, name, kind), *_costs(costs.get(name))]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
        for first, second in _pairs(board):
            yield f"- {first} - {second}: {_cell(board.difference(first, second, kind))}"
        yield ""
    yield f"Intervals: 95%, bootstrap over subsets; {RANDOM}: where 95% of random scorings are."
    yield "Costs are in trainings of one proxy."


def _pairs(board: Board) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if set(pair) <= set(board.estimators)]


def _cell(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _share(board: Board, name: str, kind: str) -> str:
    """The mean of targets as a share of the noise ceiling, where there is one above 0."""
    if CEILING not in board.estimators:
        return ""
    ceiling = board.interval(CEILING, kind).mean
    return f"{board.interval(name, kind).mean / ceiling:.2f}" if ceiling > 0 else ""


def _costs(cost: MethodCost | None) -> list[str]:
    return ["", ""] if cost is None else [f"{cost.seconds:.2f}", f"{cost.flops:.2f}"]


def _seeds(bank: Bank) -> int:
    return int(next(iter(bank.losses.values())).shape[1])


def _write(setup: str, bank: Bank, board: Board, costs: Mapping[str, MethodCost]) -> None:
    """Replaces the figures of this setup, and keeps those of others."""
    prefix = f"lds.{setup}."
    kept = [row for row in read_figures("lds") if not row["name"].startswith(prefix)]
    write_figures("lds", [*kept, *_figures(prefix, bank, board, costs)])


def _figures(
    prefix: str, bank: Bank, board: Board, costs: Mapping[str, MethodCost]
) -> Iterator[dict[str, Any]]:
    """Means of targets; the table has each target."""
    for kind in board.kinds:
        suffix = KINDS[kind][1]
        unit = f"rank correlation, {bank.kinds.count(kind)} subsets, {_seeds(bank)} seeds"
        for name in board.estimators:
            label = name.replace(CEILING, "ceiling")
            yield _figure(f"{prefix}{label}{suffix}", board.interval(name, kind), unit)
        for first, second in _pairs(board):
            found = board.difference(first, second, kind, ALL_TARGETS)
            yield _figure(f"{prefix}{first}_minus_{second}{suffix}", found, unit)
    for name, cost in costs.items():
        unit = f"trainings of one proxy, by FLOPs; {cost.seconds:.2f} by seconds"
        yield figure(f"{prefix}{name}.cost", cost.flops, unit)


def _figure(name: str, found: Interval, unit: str) -> dict[str, Any]:
    return figure(name, found.mean, unit, found.low, found.high)


if __name__ == "__main__":
    main()
