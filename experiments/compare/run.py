"""Every cell of the comparison, and its figures.

    python experiments/compare/run.py [--cells primary singles ...] [--seeds 0 1 ...] [--workers 2]
        [--finished] [--report]

A cell is a config of this folder with overrides. Each of its seeds is a run of its own, with other
proxies, subsets and initial weights on the same pool; what its models lost is added to losses.jsonl
when they are all evaluated, and figures are made of that file. So seeds may be run in any order and
on several machines, and a killed command goes on where it was. `--finished` runs nothing and adds
what is evaluated so far; `--cells` alone only writes the figures.

Models are evaluated on both parts and on the held-out tasks while their machine has them, but no
figure is made of the report part without `--report`: compare_tune.json is of the tune part alone,
and its figures have `_tune` behind the first word of their names. Every look at the report part is
a line in experiments/LOG.md.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from linked import TEXTS, experiment_of_seed, link_parts
from record import commit, figure, machine, read_lines, write_figures, write_lines

from dsdm.evaluation.comparison import ALL_TARGETS, ComparedLoss, Losses, compare_losses
from dsdm.evaluation.multiplier import ArmMultiplier, MethodCost, mean_cost, multipliers
from dsdm.experiment import Experiment
from dsdm.graph import Graph
from dsdm.reporting.measured import compared_costs, load_losses
from dsdm.stages import STAGES, Workers, run_experiment, run_of
from dsdm.stages.run import compare_folder, evaluation_folder

HERE = Path(__file__).parent
LOSSES = HERE / "losses.jsonl"
"""What every model lost: one line for each cell, part, arm and seed."""
SINGLES = ("squad", "jeopardy", "lambada", "cs_algorithms")
LARGER = (
    "{config: {model_type: gpt2, n_positions: 256, n_embd: 256, n_layer: 6, n_head: 4, "
    "tie_word_embeddings: false, activation_function: gelu_pytorch_tanh}}"
)
METHODS = {
    "top": "dsdm",
    "low_loss": "lowloss",
    "source-matched": "sourcematched",
}
"""What arms are called in the figures; others by their own name."""
NATS = "nats a target token"
SCORED_WHOLE = (("scores.per_target", "true"), ("scores.screening", "null"))
NO_HELDOUT = ("compare.heldout", "[]")
READ = (*TEXTS, "heldout", "topics")
"""What runs of a seed share whatever their proxies are."""
MADE = (*READ, "proxies")
"""What a cell's run of a seed shares with the one that is scored whole."""
LAST_ALONE = (
    ("proxies.checkpoints", "1"),
    ("proxies.first_checkpoint", "null"),
    ("scores.group_means_from", "all"),
)
"""As by default: proxies at the end of their training say what kinds of text help, too."""
LONG_PROXY = (*LAST_ALONE, ("directions.ekfac.curvature_rows", "4096"))
"""The primary cell's proxy, by its end alone."""
LONG_WHOLE = (("run", "../runs/comparison-whole"), *LONG_PROXY, *SCORED_WHOLE)
"""One run that cells of the long proxy share where the pool is scored whole."""
SHORT_PROXY = (*LAST_ALONE, ("proxies.fraction", "0.2"))
"""Trained on half as many tokens, which are as many as a model of the comparison is trained on."""
PAIR_OF_PROXIES = (*LAST_ALONE, ("proxies.count", "2"), ("proxies.fraction", "0.05"))
"""Two, each trained on an eighth of the tokens: they cost together what a long one does."""
PRIMARY = "mixed.2m.2m"
SHRUNK = "shrunk.2m.2m"
LONG = "long.2m.2m"
SLOPES = "slopes.2m.2m"
SHORT = "short.2m.2m"
PAIR = "pair.2m.2m"
CLEAN = "clean.2m.2m"
CLEAN_LONG = "cleanlong.2m.2m"
CLEAN_PAIR = "cleanpair.2m.2m"
LONGER = "mixed.2m.8m"
TRANSFER = "singles"
TRANSFER_LONG = "singleslong"
TRANSFERS = {TRANSFER: "transfer", TRANSFER_LONG: "transfer_long"}
"""Places of arms that are selected for single targets, and what their figures begin with."""
LONGER_RANDOM = "random@4"
"""The arm of the primary cell's budgets that trains on as many tokens as the longer cell."""
BUDGETS = ("random", "random@2", "random@4")
"""Random's curve."""
BORROWED = {
    TRANSFER: (PRIMARY, ("random",)),
    TRANSFER_LONG: (PRIMARY, ("random",)),
    SHRUNK: (PRIMARY, BUDGETS),
    LONG: (PRIMARY, BUDGETS),
    SLOPES: (PRIMARY, ("random",)),
    SHORT: (PRIMARY, BUDGETS),
    PAIR: (PRIMARY, BUDGETS),
    LONGER: (PRIMARY, (LONGER_RANDOM,)),
    CLEAN_LONG: (CLEAN, ("random",)),
    CLEAN_PAIR: (CLEAN, ("random",)),
}
"""Arms of one place that are another's too: no proxy or score has a part in them."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Calls of `dsdm compare`, one for each seed, and what their figures are called."""

    name: str
    place: str
    """Pool, size of the model and training tokens; cells that share it are pooled."""
    seeds: tuple[int, ...]
    config: str = "mixed"
    arms: tuple[str, ...] = ()
    """None: those of the config."""
    overrides: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    """Parts of another cell's run of the same seed that serve, as far as it has run."""
    links_of: str = "primary"
    """That other cell."""

    @property
    def path(self) -> Path:
        """Its config's file."""
        return HERE / f"{self.config}.yaml"


CELLS = (
    Cell(  # the arms that the claims are about
        "primary",
        PRIMARY,
        (0, 1, 2, 3, 4),
        arms=("top", "dsir", "random", "source-matched", "bottom"),
    ),
    Cell(  # random's curve, for the multipliers
        "budgets",
        PRIMARY,
        (0, 2, 3, 4),
        arms=BUDGETS,
    ),
    Cell("baselines", PRIMARY, (2, 3, 4)),  # every arm of the config
    Cell(  # drawn as far to the means of groups as the long one's
        "shrunk",
        SHRUNK,
        (0, 1, 2, 3, 4),
        arms=("top", "source-matched", "bottom"),
        overrides=(("run", "../runs/comparison-shrunk"), ("scores.shrinkage", "0.3")),
        links=(*MADE, "directions", "screening", "scores"),
    ),
    Cell(  # by the end of the proxy's training alone
        "long",
        LONG,
        (0, 1, 2, 3, 4),
        arms=("top", "source-matched"),
        overrides=(("run", "../runs/comparison-long"), *LONG_PROXY),
        links=READ,
    ),
    Cell(  # of a pool that is scored whole: of a screened one the lowest scores are predictions
        "long-bottom",
        LONG,
        (2,),
        arms=("bottom",),
        overrides=LONG_WHOLE,
        links=MADE,
        links_of="long",
    ),
    Cell(  # what single targets' scores choose
        "singles",
        TRANSFER,
        (2, 3, 4),
        arms=tuple(f"{method}:{t}" for t in SINGLES for method in ("top", "dsir")),
        overrides=(("run", "../runs/comparison-singles"), *SCORED_WHOLE, NO_HELDOUT),
        links=MADE,
    ),
    Cell(  # by the end of the long proxy
        "singles-long",
        TRANSFER_LONG,
        (2, 3, 4),
        arms=tuple(f"top:{t}" for t in SINGLES),
        overrides=(*LONG_WHOLE, NO_HELDOUT),
        links=MADE,
        links_of="long",
    ),
    Cell(  # the long one's without shrinkage
        "slopes",
        SLOPES,
        (0, 1, 2, 3, 4),
        arms=("top", "source-matched"),
        overrides=(
            *LONG_PROXY,
            ("run", "../runs/comparison-slopes"),
            ("scores.shrinkage", "0"),
        ),
        links=(*MADE, "directions", "screening"),
        links_of="long",
    ),
    Cell(  # by proxies that cost half as much
        "short",
        SHORT,
        (2, 3),
        arms=("top", "source-matched", "bottom"),
        overrides=(("run", "../runs/comparison-short"), *SHORT_PROXY),
        links=READ,
    ),
    Cell(
        "pair",
        PAIR,
        (0, 1, 2, 3, 4),
        arms=("top", "source-matched", "bottom"),
        overrides=(("run", "../runs/comparison-pair"), *PAIR_OF_PROXIES),
        links=READ,
    ),
    Cell(  # its random is the budgets cell's
        "longer", LONGER, (2, 3), arms=("top-8epochs@4", "dsir-8epochs@4")
    ),
    Cell(
        "larger",
        "mixed.7m.2m",
        (0, 1, 2),
        arms=("top", "dsir", "random", "random@2", "random@3"),
        overrides=(("compare.name", "larger"), ("compare.model", LARGER)),
    ),
    Cell("clean", CLEAN, (0, 1, 2), config="clean"),
    Cell(
        "clean-long",
        CLEAN_LONG,
        (2,),
        config="clean",
        arms=("top", "source-matched"),
        overrides=(("run", "../runs/comparison-clean-long"), *LONG_PROXY),
        links=READ,
        links_of="clean",
    ),
    Cell(
        "clean-pair",
        CLEAN_PAIR,
        (2,),
        config="clean",
        arms=("top", "source-matched"),
        overrides=(("run", "../runs/comparison-clean-pair"), *PAIR_OF_PROXIES),
        links=READ,
        links_of="clean",
    ),
)


def main() -> None:
    """Runs what is missing of the cells, then writes the figures of all that is finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [cell.name for cell in CELLS]
    parser.add_argument("--cells", nargs="*", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, help="those of each cell that it has")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--finished", action="store_true", help="add what is there, run nothing")
    parser.add_argument("--report", action="store_true", help="look at the report part")
    options = parser.parse_args()
    commit()  # What is measured is of the code as it is now, not as it is when all is trained.
    for cell in (cell for cell in CELLS if cell.name in options.cells):
        for seed in cell.seeds:
            if options.seeds is None or seed in options.seeds:
                print(f"== {cell.name}, seed {seed}", file=sys.stderr)
                experiment = experiment_of(cell, seed)
                if not options.finished:
                    link_finished(cell, seed, experiment.folder)
                    run_experiment(experiment, workers=Workers(options.workers))
                add_lines(LOSSES, measured_lines(cell, seed, experiment))
    part = "report" if options.report else "tune"
    mix = [t.name for t in experiment_of(CELLS[0], 0).targets if t.weight > 0]
    rows = list(all_figures(read_lines(LOSSES), part, mix))
    if options.report:
        write_figures("compare", rows)
    else:
        write_figures("compare_tune", [row | {"name": tune_name(row["name"])} for row in rows])


def tune_name(name: str) -> str:
    """What a figure is called where it is of the tune part: `_tune` behind its first word."""
    kind, _, rest = name.partition(".")
    return f"{kind}_tune.{rest}"


def cell_named(name: str) -> Cell:
    """The cell of that name."""
    return next(cell for cell in CELLS if cell.name == name)


def experiment_of(cell: Cell, seed: int) -> Experiment:
    """One seed of the cell."""
    overrides = list(cell.overrides)
    if cell.arms:
        overrides.append(("compare.arms", f"[{', '.join(map(repr, cell.arms))}]"))
    return experiment_of_seed(cell.path, overrides, seed)


def link_finished(cell: Cell, seed: int, folder: Path) -> None:
    """Gives a seed of the cell what it shares with another's, as far as that has run."""
    other = experiment_of(cell_named(cell.links_of), seed).folder
    link_parts(other, folder, [name for name in cell.links if (other / name).exists()])


def measured_lines(cell: Cell, seed: int, experiment: Experiment) -> Iterator[Line]:
    """What each evaluated model of a run lost, and what it took; not those of other settings."""
    compare = experiment.compare
    assert compare is not None
    targets = [target.name for target in experiment.targets]
    tasks = {part: targets for part in compare.parts}
    if "report" in compare.parts and compare.heldout:
        tasks["heldout"] = [task.name for task in compare.heldout]
    found = {
        part: load_losses(experiment.folder, part, compare, names) for part, names in tasks.items()
    }
    evaluated = dict.fromkeys(arm for losses in found.values() for arm in losses)
    training, selection = compared_costs(experiment.folder, experiment, list(evaluated))
    evaluations = Graph(run_of(experiment), STAGES)["evaluations"]
    current = {one.path for one in evaluations if one.state()[0] == "done"}
    comparison = compare_folder(experiment.folder, compare)
    for part, by_arm in found.items():
        for arm, seeds in by_arm.items():
            for inner, losses in seeds.items():
                if evaluation_folder(comparison, part, f"{arm}-{inner}") not in current:
                    continue
                yield {
                    "place": cell.place,
                    "part": part,
                    "arm": arm,
                    "seed": seed * compare.seeds + inner,
                    "losses": {task: float(values.mean()) for task, values in losses.items()},
                    "training": vars(training[arm]),
                    "selection": vars(selection[arm]) if arm in selection else None,
                    "commit": commit(),
                    "machine": machine(),
                }


def add_lines(path: Path, lines: Iterable[Line]) -> None:
    """Adds what was measured, in place of what was measured of the same models before.

    Losses that are there already keep the commit that they were measured at.
    """

    def key(line: Line) -> tuple[str, str, str, int]:
        return line["place"], line["part"], line["arm"], line["seed"]

    kept = {key(line): line for line in read_lines(path)}
    for line in lines:
        if line["losses"] != kept.get(key(line), {}).get("losses"):
            kept[key(line)] = line
    write_lines(path, [kept[k] for k in sorted(kept)])


def all_figures(lines: list[Line], part: str, mix: list[str]) -> Iterator[dict[str, Any]]:
    """Every figure of what was measured on one part."""
    for place in dict.fromkeys(line["place"] for line in lines):
        of_place = [line for line in lines if is_of(line, place)]
        measured = [line for line in of_place if line["part"] == part]
        if place in TRANSFERS:
            yield from transfer_figures(TRANSFERS[place], losses_of(measured))
        elif measured:
            yield from place_figures(place, measured, mix)
        heldout = losses_of(line for line in of_place if line["part"] == "heldout")
        if part == "report" and heldout and place not in TRANSFERS:
            for name in names_of(place):
                random = random_arm(place)
                yield from difference_figures(name, heldout, None, random, "heldout_mean")


def is_of(line: Line, place: str) -> bool:
    """Whether a model belongs to a place; some belong to several."""
    lender, arms = BORROWED.get(place, (place, ()))
    return line["place"] == place or (line["place"] == lender and line["arm"] in arms)


def place_figures(place: str, lines: list[Line], mix: list[str]) -> Iterator[dict[str, Any]]:
    """Those of one pool, size and budget."""
    losses, costs = losses_of(lines), costs_of(lines)
    if place == PRIMARY:
        yield from rival_figures(losses, mix)
    for name in names_of(place):
        yield from difference_figures(name, losses, mix, random_arm(place))
        yield from multiplier_figures(name, losses, costs, mix)


def names_of(place: str) -> list[str]:
    """What figures of a place begin with."""
    return [f"compare.{place}", *(["primary"] if place == PRIMARY else [])]


def random_arm(place: str) -> str:
    """The arm that differences are to: random at the place's own budget."""
    return LONGER_RANDOM if place == LONGER else "random"


def losses_of(lines: Iterable[Line]) -> Losses:
    """Mean losses by arm, seed and task."""
    losses: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for line in lines:
        means = {task: np.array([loss]) for task, loss in line["losses"].items()}
        losses.setdefault(line["arm"], {})[line["seed"]] = means
    return losses


def costs_of(lines: Iterable[Line]) -> dict[str, dict[str, MethodCost]]:
    """Mean costs over seeds, of `training` and `selection`, by arm."""
    found: dict[str, dict[str, list[MethodCost]]] = {"training": {}, "selection": {}}
    for line in lines:
        for kind, by_arm in found.items():
            if line[kind] is not None:
                by_arm.setdefault(line["arm"], []).append(MethodCost(**line[kind]))
    return {
        kind: {arm: mean_cost(costs) for arm, costs in by_arm.items()}
        for kind, by_arm in found.items()
    }


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
        yield difference_figure(name, line)


def difference_figure(name: str, line: ComparedLoss, note: str = "") -> dict[str, Any]:
    """A difference, with its interval where it is over several seeds."""
    found = line.difference
    assert found is not None
    unit = f"{NATS}, {counted(line.num_pairs)}{note}"
    if line.over == "examples":
        return figure(name, found.mean, unit)
    return figure(name, found.mean, unit, found.low, found.high)


def rival_figures(losses: Losses, mix: list[str]) -> Iterator[dict[str, Any]]:
    """The selection's loss minus that of its rivals, on the mix."""
    for rival in ("dsir", "source-matched", "best-source"):
        for line in compare_losses(losses, rival, mix=mix):
            if line.arm == "top" and line.target == ALL_TARGETS and line.difference is not None:
                yield difference_figure(f"primary.mix.dsdm.minus_{method_of(rival)}", line)


def multiplier_figures(
    place: str, losses: Losses, costs: Mapping[str, Mapping[str, MethodCost]], mix: list[str]
) -> Iterator[dict[str, Any]]:
    """Gross and net multipliers of each arm."""
    for line in multipliers(losses, costs["training"], costs["selection"], mix=mix):
        target = "mix" if line.target == ALL_TARGETS else line.target
        name = f"{place}.{target}.{method_of(line.arm)}.multiplier"
        yield from _multiplier_rows(name, line)


def _multiplier_rows(name: str, line: ArmMultiplier) -> Iterator[dict[str, Any]]:
    nets = {"net": line.net_flops, "net_seconds": line.net_seconds}
    found = {"gross": line.gross} | {k: net.multiplier for k, net in nets.items() if net}
    for kind, estimate in found.items():
        unit = f"times random's compute, {counted(line.num_seeds)}"
        ends = [estimate.value, estimate.low, estimate.high]
        values = [None if end is None else end.value for end in ends]
        bounds = ["" if end is None else end.bound for end in ends]
        yield figure(f"{name}_{kind}", estimate.value.value, unit, *values[1:], bounds)


def counted(num_seeds: int) -> str:
    """Such as `1 seed` or `3 seeds`."""
    return f"{num_seeds} seed{'s' * (num_seeds > 1)}"


def transfer_figures(prefix: str, losses: Losses) -> Iterator[dict[str, Any]]:
    """Selected for one target, evaluated on each: loss minus random's."""
    for line in compare_losses(losses, "random"):
        method, _, chosen_for = line.arm.partition(":")
        if line.difference is None or not chosen_for or line.target == ALL_TARGETS:
            continue
        chosen_by = prefix if method == "top" else f"{prefix}_{method}"
        yield difference_figure(f"{chosen_by}.{chosen_for}.{line.target}", line)


def method_of(arm: str) -> str:
    """What an arm is called in the figures."""
    base = arm.partition("-8epochs")[0]
    return METHODS.get(base, base).replace("-", "")


if __name__ == "__main__":
    main()
