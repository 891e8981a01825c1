"""Every cell of the comparison, and its figures.

    python experiments/compare/run.py [--cells primary singles ...] [--workers 2] [--report]

A cell is a config of this folder with overrides. What is finished is not done again, so a killed
command goes on where it was. Without `--report` models are evaluated on the tune part alone, and
figures go to `compare_tune.json`; every look at the report part is a line in experiments/LOG.md.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from record import figure, write_figures

from dsdm.evaluation.comparison import ALL_TARGETS, Losses, compare_losses
from dsdm.evaluation.multiplier import ArmMultiplier, multipliers
from dsdm.experiment import Experiment, load_experiment
from dsdm.pipeline import Workers, run_experiment
from dsdm.pipeline.costs import compared_costs
from dsdm.pipeline.losses import load_losses

HERE = Path(__file__).parent
SINGLES = ("squad", "jeopardy", "lambada", "cs_algorithms")
LARGER = (
    "{config: {model_type: gpt2, n_positions: 256, n_embd: 256, n_layer: 6, n_head: 4, "
    "tie_word_embeddings: false, activation_function: gelu_pytorch_tanh}}"
)
METHODS = {"top": "dsdm", "low_loss": "lowloss", "source-matched": "sourcematched"}
"""What arms are called in the figures; others by their own name."""
NATS = "nats a target token"


@dataclass(frozen=True)
class Cell:
    """One call of `dsdm compare`, and what its figures are called."""

    name: str
    pool: str
    size: str
    budget: str
    arms: tuple[str, ...] = ()
    """None: those of the config."""
    overrides: tuple[tuple[str, str], ...] = ()


CELLS = (
    Cell("primary", "mixed", "2m", "2m"),
    Cell(  # the same models, and two more seeds of the arms that the claims are about
        "seeds",
        "mixed",
        "2m",
        "2m",
        ("top", "dsir", "random", "source-matched", "random@2", "random@4"),
        (("compare.seeds", "5"),),
    ),
    Cell(
        "singles",
        "mixed",
        "2m",
        "2m",
        ("random", *(f"{method}:{t}" for t in SINGLES for method in ("top", "dsir"))),
        (  # one pair of proxies for all seeds, scored for each target by itself
            ("run", "../runs/compare-singles"),
            ("scores.per_target", "true"),
            ("compare.renew", "false"),
        ),
    ),
    Cell("longer", "mixed", "2m", "8m", ("top-8epochs@4", "dsir-8epochs@4", "random@4")),
    Cell(
        "larger",
        "mixed",
        "7m",
        "2m",
        ("top", "dsir", "random"),
        (("compare.name", "larger"), ("compare.model", LARGER)),
    ),
    Cell("clean", "clean", "2m", "2m"),
)


def main() -> None:
    """Runs the cells, then writes the figures of those that are finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [cell.name for cell in CELLS]
    parser.add_argument("--cells", nargs="+", choices=names, default=names)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="look at the report part")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for cell in (cell for cell in CELLS if cell.name in options.cells):
        print(f"== {cell.name}", file=sys.stderr)
        experiment = experiment_of(cell, report=options.report)
        run_experiment(experiment, workers=Workers(options.workers))
        rows += cell_figures(cell, experiment, "report" if options.report else "tune")
    by_name = {row["name"]: row for row in rows}
    write_figures("compare" if options.report else "compare_tune", list(by_name.values()))


def experiment_of(cell: Cell, *, report: bool) -> Experiment:
    """The cell's experiment."""
    overrides = list(cell.overrides)
    if cell.arms:
        overrides.append(("compare.arms", f"[{', '.join(map(repr, cell.arms))}]"))
    if report:
        overrides.append(("compare.parts", "[tune, report]"))
    return load_experiment(HERE / f"{cell.pool}.yaml", overrides)


def cell_figures(cell: Cell, experiment: Experiment, part: str) -> Iterator[dict[str, Any]]:
    """Every figure of a finished cell."""
    compare = experiment.compare
    assert compare is not None
    targets = [target.name for target in experiment.targets]
    mix = [target.name for target in experiment.targets if target.weight > 0]
    losses = load_losses(experiment.folder, part, compare, targets)
    place = f"compare.{cell.pool}.{cell.size}.{cell.budget}"
    random = "random@4" if cell.name == "longer" else "random"
    if cell.name == "singles":
        yield from transfer_figures(losses)
        return
    yield from difference_figures(place, losses, mix, random)
    if cell.name != "longer":
        yield from multiplier_figures(place, experiment, losses, mix)
    if cell.name in ("primary", "seeds"):
        yield from difference_figures("primary", losses, mix, random)
        yield from rival_figures(losses, mix)
        yield from multiplier_figures("primary", experiment, losses, mix)
    if part == "report" and compare.heldout:
        tasks = [task.name for task in compare.heldout]
        heldout = load_losses(experiment.folder, "heldout", compare, tasks)
        yield from difference_figures(place, heldout, None, random, "heldout_mean")


def difference_figures(
    place: str,
    losses: Losses,
    mix: list[str] | None,
    random: str,
    only_mean: str = "",
) -> Iterator[dict[str, Any]]:
    """Each arm's loss minus random's."""
    for line in compare_losses(losses, random, mix=mix):
        is_mean = line.target == ALL_TARGETS
        if (
            line.difference is None
            or "@" in line.arm.split("epochs")[0]
            or (only_mean and not is_mean)
        ):
            continue
        target = (only_mean or "mix") if is_mean else line.target
        name = f"{place}.{target}.{method_of(line.arm)}.loss_minus_random"
        found, unit = line.difference, f"{NATS}, {line.num_seeds} seeds"
        yield figure(name, found.mean, unit, found.low, found.high)


def rival_figures(losses: Losses, mix: list[str]) -> Iterator[dict[str, Any]]:
    """The selection's loss minus that of its two rivals, on the mix."""
    for rival in ("dsir", "source-matched"):
        for line in compare_losses(losses, rival, mix=mix):
            if line.arm == "top" and line.target == ALL_TARGETS and line.difference is not None:
                found, unit = line.difference, f"{NATS}, {line.num_seeds} seeds"
                name = f"primary.mix.dsdm.minus_{METHODS.get(rival, rival)}"
                yield figure(name, found.mean, unit, found.low, found.high)


def multiplier_figures(
    place: str, experiment: Experiment, losses: Losses, mix: list[str]
) -> Iterator[dict[str, Any]]:
    """Gross and net multipliers of each arm."""
    training, selection = compared_costs(experiment, list(losses))
    for line in multipliers(losses, training, selection, mix=mix):
        target = "mix" if line.target == ALL_TARGETS else line.target
        name = f"{place}.{target}.{method_of(line.arm)}.multiplier"
        yield from _multiplier_rows(name, line)


def _multiplier_rows(name: str, line: ArmMultiplier) -> Iterator[dict[str, Any]]:
    nets = {"net": line.net_flops, "net_seconds": line.net_seconds}
    found = {"gross": line.gross} | {k: net.multiplier for k, net in nets.items() if net}
    for kind, estimate in found.items():
        unit = f"times random's compute {estimate.value.bound}".strip()
        low = None if estimate.low is None else estimate.low.value
        high = None if estimate.high is None else estimate.high.value
        yield figure(f"{name}_{kind}", estimate.value.value, unit, low, high)


def transfer_figures(losses: Losses) -> Iterator[dict[str, Any]]:
    """Selected for one target, evaluated on each: loss minus random's."""
    for line in compare_losses(losses, "random"):
        method, _, chosen_for = line.arm.partition(":")
        if line.difference is None or not chosen_for or line.target == ALL_TARGETS:
            continue
        prefix = "transfer" if method == "top" else f"transfer_{method}"
        found, unit = line.difference, f"{NATS}, {line.num_seeds} seeds"
        yield figure(
            f"{prefix}.{chosen_for}.{line.target}", found.mean, unit, found.low, found.high
        )


def method_of(arm: str) -> str:
    """What an arm is called in the figures."""
    base = arm.partition("-8epochs")[0]
    return METHODS.get(base, base).replace("-", "")


if __name__ == "__main__":
    main()
