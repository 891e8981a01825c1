"""How well each method predicts retraining: the table of LDS and cost, and its figures.

    python experiments/lds/lds.py [SETUP.yaml] [--subsets N] [--workers N] [--scores NAME=FILE]

The run is made through dsdm's stages and kept in its folder, so the same command goes on after an
interruption, and another method is judged by the same bank in seconds. What each retrained model
lost is added to SETUP_losses.jsonl when it is trained; models that are in it are not trained again,
on this machine or another. NAME=FILE is a method from outside: a Parquet or CSV file with the
columns that `lds.score_files` names, for the candidates in RUN/lds/bank/candidates.parquet.

SETUP.yaml is an experiment with four proxies and `scores.per_target`, and SETUP_bank.json beside it
says what is retrained (`lds.bank.BankConfig`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import figure, read_figures, write_figures

from dsdm.datamodel.config import DirectionsConfig
from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.intervals import Interval
from dsdm.evaluation.lds import CEILING, RANDOM, LdsTable, lds_table, random_table
from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import Experiment, ProxiesConfig, load_experiment
from dsdm.stages import Workers, run_experiment
from lds.bank import Bank, bank_config, losses_file
from lds.methods import COSINE, Method, method_scores, proxy_trainings
from lds.retrain import make_bank
from lds.score_files import read_scores

BASELINES = ("bm25", "dsir")
METHODS = {
    "ekfac1": Method("ekfac", 1),
    "ekfac": Method("ekfac", 4),
    "trak1": Method("trak", 1),
    "trak4": Method("trak", 4),
    "gradient2": Method("gradient", 2),
    "gradient": Method("gradient", 4),
    "cosine": Method("cosine", 4),
    "metagradient1": Method("metagradient", 1),
    "metagradient": Method("metagradient", 4),
    **{name: Method(name) for name in BASELINES},
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

Tables = Mapping[str, LdsTable]
"""By kind of subset."""


def main(arguments: list[str] | None = None) -> None:
    """Makes what is missing, prints the table and writes `lds.SETUP.*` figures."""
    options = _options(arguments)
    experiment = load_experiment(options.setup)
    config = bank_config(options.setup, options.subsets)
    workers = Workers(options.workers)
    run = run_experiment(experiment, until="scores", workers=workers, announce=_announce)
    bank = make_bank(
        run,
        config,
        losses_file(options.setup),
        processes=options.workers,
        announce=lambda made, total: _announce("lds", made, total),
    )
    methods = methods_of(experiment)
    scores = {name: method_scores(run, method) for name, method in methods.items()}
    for name, file in options.scores:
        scores[name] = read_scores(file, list(bank.losses), bank.num_candidates)
    tables = {
        kind: LdsTable({**lds_table(one, scores).samples, **random_table(one).samples})
        for kind, one in bank.by_kind().items()
    }
    costs = {name: proxy_trainings(run, method) for name, method in methods.items()}
    text = "\n".join(_lines(bank, tables, costs | {RANDOM: MethodCost()}))
    (run.folder / "lds" / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if not options.no_figures:
        # Replaces the figures of this set-up, and keeps those of others.
        prefix = f"lds.{options.setup.stem}."
        kept = [row for row in read_figures("lds") if not row["name"].startswith(prefix)]
        write_figures("lds", [*kept, *_figures(prefix, bank, tables, costs)])


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
        help="a method from outside; may be given again",
    )
    parser.add_argument("--no-figures", action="store_true", help="print the table alone")
    return parser.parse_args(arguments)


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not name or not equals or name in ("default", *METHODS, RANDOM, CEILING):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FILE with a new name")
    return name, Path(file)


def methods_of(experiment: Experiment) -> dict[str, Method]:
    """Those of the table that a set-up can have."""
    known = {*experiment.estimators, COSINE, *BASELINES}
    unset = msgspec.structs.replace(experiment, directions=DirectionsConfig(), estimator=None)
    methods = {"default": Method(unset.selecting_estimator, ProxiesConfig().count), **METHODS}
    return {name: method for name, method in methods.items() if method.name in known}


def _announce(stage: str, made: int, total: int) -> None:
    if total:
        print(f"{stage:12} {made} of {total}", file=sys.stderr, flush=True)


def _lines(bank: Bank, tables: Tables, costs: Mapping[str, MethodCost]) -> Iterator[str]:
    """One table of Markdown for each kind of subset."""
    for kind, table in tables.items():
        titles = ["method", *table.targets, "of the ceiling", "cost, seconds", "cost, FLOPs"]
        yield f"LDS on {bank.kinds.count(kind)} {KINDS[kind][0]}, {bank.num_seeds} seeds each"
        yield ""
        yield "| " + " | ".join(titles) + " |"
        yield "|---" + "|---:" * (len(titles) - 1) + "|"
        ceiling = table.interval(CEILING).mean if CEILING in table.methods else 0.0
        for name in table.methods:
            cells = [_cell(table.interval(name, target)) for target in table.targets]
            cells.append(f"{table.interval(name).mean / ceiling:.2f}" if ceiling > 0 else "")
            cost = costs.get(name)
            cells += [f"{cost.seconds:.2f}", f"{cost.flops:.2f}"] if cost else ["", ""]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
        for first, second in _pairs(table):
            yield f"- {first} - {second}: {_cell(table.difference(first, second))}"
        yield ""
    yield f"Intervals: 95%, bootstrap over subsets; {RANDOM}: where 95% of random scorings are."
    yield "Costs are in trainings of one proxy."


def _pairs(table: LdsTable) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if set(pair) <= set(table.methods)]


def _cell(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _figures(
    prefix: str, bank: Bank, tables: Tables, costs: Mapping[str, MethodCost]
) -> Iterator[dict[str, Any]]:
    """Means of targets; the table has each target."""
    for kind, table in tables.items():
        suffix = KINDS[kind][1]
        unit = f"rank correlation, {bank.kinds.count(kind)} subsets, {bank.num_seeds} seeds"
        for name in table.methods:
            label = name.replace(CEILING, "ceiling")
            yield _figure(f"{prefix}{label}{suffix}", table.interval(name), unit)
        for first, second in _pairs(table):
            found = table.difference(first, second, ALL_TARGETS)
            yield _figure(f"{prefix}{first}_minus_{second}{suffix}", found, unit)
    for name, cost in (costs | {RANDOM: MethodCost()}).items():
        unit = f"trainings of one proxy, by FLOPs; {cost.seconds:.2f} by seconds"
        yield figure(f"{prefix}{name}.cost", cost.flops, unit)


def _figure(name: str, found: Interval, unit: str) -> dict[str, Any]:
    return figure(name, found.mean, unit, found.low, found.high)


if __name__ == "__main__":
    main()
