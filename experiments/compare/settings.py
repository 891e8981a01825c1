"""What a setting does to the targets, and to tasks that nobody selects for.

    python experiments/compare/settings.py [--seeds 2 3 4] [--settings 0.3 short ...]

Run the cells of run.py that they are of first. A setting is a cell with overrides; its seeds are
runs of their own, which share what they can, and a model is trained on each selection. It is
measured on the targets' tune part and on examples of the held-out tasks that no cell of run.py
measures. Figures are differences, paired by seed, of what is measured so far: `shrinkage_tune.*`
minus no shrinkage, `proxies_tune.*` minus a long proxy at the end of its training, `others_tune.*`
minus random rows. A killed command goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from linked import TEXTS, link_parts
from record import commit, read_lines, write_figures, write_lines
from run import HERE, cell_named, difference_figure, experiment_of

from dsdm.data.tasks import EXAMPLES
from dsdm.evaluation.comparison import ALL_TARGETS, compare_losses
from dsdm.experiment import Experiment
from dsdm.pipeline import run_experiment
from dsdm.pipeline.losses import load_losses

LOSSES = HERE / "settings_losses.jsonl"
"""Mean losses by task: one line for each setting, seed and kind of task."""


@dataclass(frozen=True)
class Setting:
    """A cell of run.py, with overrides."""

    cell: str
    overrides: tuple[tuple[str, str], ...] = ()
    """None: the models of the cell serve."""
    arm: str = "top"


RANDOM = "random"
NONE = "0"
LONG = "0.3"
SETTINGS = {
    NONE: Setting("long", (("scores.shrinkage", NONE),)),
    LONG: Setting("long"),
    "0.6": Setting("long", (("scores.shrinkage", "0.6"),)),
    "short": Setting("short"),
    "pair": Setting("pair"),
    "levels": Setting("shrunk"),
    "levels-0.1": Setting("primary"),
    RANDOM: Setting("primary", arm="random"),
}
FIGURES = (
    (NONE, (LONG, "0.6"), "shrinkage_tune.{}.{}.minus_none"),
    (LONG, ("short", "pair", "levels", "levels-0.1"), "proxies_tune.{}.{}.minus_long"),
    (RANDOM, (LONG, "levels", "levels-0.1"), "others_tune.{}.{}.minus_random"),
)
"""What settings are compared with, which ones, and what the differences are called."""
SEEDS = (2, 3, 4)
LINKED = (*TEXTS, "topics", "proxies", "directions", "screening", "scores")
PER_PART = 100
"""Examples of a held-out task in each of the three parts it is read in."""
MEANS = {"targets": "mix", "heldout": "heldout_mean"}


def main() -> None:
    """Trains and measures what is missing, and writes the figures of all that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    commit()  # Of the code as it is now, as in run.py.
    for seed in options.seeds:
        files = list(unmeasured_examples(experiment_of(cell_named("primary"), seed)))
        for name in options.settings:
            setting = SETTINGS[name]
            if seed not in cell_named(setting.cell).seeds:
                continue
            experiment = experiment_at(name, seed, files)
            made = experiment_of(cell_named(setting.cell), seed)
            # What is merged in another way is scored as the cell is.
            models = ["models"] * (not setting.overrides)
            link_parts(made.folder, experiment.folder, [*LINKED, *models])
            run_experiment(experiment)
            add_lines(name, seed, experiment)
    write_figures("settings_tune", list(all_figures(read_lines(LOSSES))))


def unmeasured_examples(primary: Experiment) -> Iterator[Path]:
    """A file of each held-out task that has enough examples beside those that run.py measures."""
    assert primary.compare is not None
    folder = primary.folder.parent / "heldout-tune"
    folder.mkdir(exist_ok=True)
    for task in primary.compare.heldout:
        assert task.file is not None
        read = primary.folder / "heldout" / task.name / EXAMPLES
        measured = {line["where"].rpartition(":")[2] for line in read_lines(read)}
        lines = Path(task.file).read_text(encoding="utf-8").rstrip("\n").split("\n")
        known = {lines[int(number) - 1] for number in measured}
        rest = [line for line in lines if line not in known]
        if len(rest) >= 3 * PER_PART:
            path = folder / f"{task.name}.jsonl"
            path.write_text("\n".join([*rest, ""]), encoding="utf-8")
            yield path


def experiment_at(name: str, seed: int, files: list[Path]) -> Experiment:
    """One seed of a setting, with other examples of the held-out tasks."""
    tasks = [{"name": path.stem, "file": str(path), "limit": PER_PART} for path in files]
    setting = SETTINGS[name]
    cell = cell_named(setting.cell)
    overrides = (
        *cell.overrides,
        ("run", f"../runs/settings-{name}"),
        *setting.overrides,
        ("compare.heldout", json.dumps(tasks)),
    )
    return experiment_of(replace(cell, arms=(setting.arm,), overrides=overrides), seed)


def add_lines(setting: str, seed: int, experiment: Experiment) -> None:
    """Adds one model's losses, in place of what was measured of it before."""
    compare = experiment.compare
    assert compare is not None
    targets = [target.name for target in experiment.targets if target.weight > 0]
    heldout = [task.name for task in compare.heldout]
    found = {(line["setting"], line["seed"], line["kind"]): line for line in read_lines(LOSSES)}
    for kind, part, names in (("targets", "tune", targets), ("heldout", "heldout", heldout)):
        losses = load_losses(experiment.folder, part, compare, names)[SETTINGS[setting].arm][0]
        means = {name: float(values.mean()) for name, values in losses.items()}
        line = {"setting": setting, "seed": seed, "kind": kind, "losses": means}
        found[setting, seed, kind] = line
    write_lines(LOSSES, [found[key] for key in sorted(found)])


def all_figures(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Differences of mean losses by kind of task, and of the mean of both kinds."""
    losses: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for line in lines:
        by_kind = losses.setdefault(line["setting"], {}).setdefault(line["seed"], {})
        by_kind[MEANS[line["kind"]]] = np.array([np.mean(list(line["losses"].values()))])
    for against, settings, called in FIGURES:
        pair = {name: losses[name] for name in (against, *settings) if name in losses}
        for less in compare_losses(pair, against):
            if less.difference is not None:
                kind = "both" if less.target == ALL_TARGETS else less.target
                yield difference_figure(called.format(less.arm, kind), less)


if __name__ == "__main__":
    main()
