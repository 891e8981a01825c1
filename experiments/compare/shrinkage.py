"""Which shrinkage: what it does to the targets, and to tasks that nobody selects for.

    python experiments/compare/shrinkage.py [--seeds 2 3 4] [--shrinkages 0 0.3 0.6]

Run the primary cell of run.py first. Each seed's scores are merged at several shrinkages, which
scores nothing again, and a model is trained on each selection. It is measured on the targets' tune
part and on examples of the held-out tasks that no cell of run.py measures. Figures are
`shrinkage_tune.*`, each minus those of no shrinkage and paired by seed, of what is measured so far;
a killed command goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from linked import TEXTS, link_parts
from record import read_lines, write_figures, write_lines
from run import CELLS, HERE, difference_figure, experiment_of

from dsdm.data.tasks import EXAMPLES
from dsdm.datamodel.config import shrinkage_of
from dsdm.evaluation.comparison import ALL_TARGETS, compare_losses
from dsdm.experiment import Experiment
from dsdm.pipeline import run_experiment
from dsdm.pipeline.losses import load_losses

PRIMARY = CELLS[0]
LOSSES = HERE / "shrinkage_losses.jsonl"
"""Mean losses by task: one line for each shrinkage, seed and kind of task."""
SHRINKAGES = (0.0, 0.3, 0.6)
NONE = "0"
SEEDS = (2, 3, 4)
LINKED = (*TEXTS, "topics", "proxies", "directions", "screening", "scores")
PER_PART = 100
"""Examples of a held-out task in each of the three parts it is read in."""
MEANS = {"targets": "mix", "heldout": "heldout_mean"}


def main() -> None:
    """Trains and measures what is missing, and writes the figures of all that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--shrinkages", nargs="*", type=float, default=SHRINKAGES)
    options = parser.parse_args()
    for seed in options.seeds:
        primary = experiment_of(PRIMARY, seed)
        files = list(unmeasured_examples(primary))
        for shrinkage in options.shrinkages:
            experiment = experiment_at(shrinkage, seed, files)
            models = ["models"] * (shrinkage == shrinkage_of(primary.scores, "ekfac"))
            link_parts(primary.folder, experiment.folder, [*LINKED, *models])
            run_experiment(experiment)
            add_lines(shrinkage, seed, experiment)
    write_figures("shrinkage_tune", list(all_figures(read_lines(LOSSES))))


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


def experiment_at(shrinkage: float, seed: int, files: list[Path]) -> Experiment:
    """One seed of the primary cell at a shrinkage, with other examples of the held-out tasks."""
    tasks = [{"name": path.stem, "file": str(path), "limit": PER_PART} for path in files]
    overrides = (
        ("run", f"../runs/shrinkage-{shrinkage:g}"),
        ("scores.shrinkage", f"{shrinkage:g}"),
        ("compare.heldout", json.dumps(tasks)),
    )
    return experiment_of(replace(PRIMARY, arms=("top",), overrides=overrides), seed)


def add_lines(shrinkage: float, seed: int, experiment: Experiment) -> None:
    """Adds one model's losses, in place of what was measured of it before."""
    compare = experiment.compare
    assert compare is not None
    targets = [target.name for target in experiment.targets if target.weight > 0]
    heldout = [task.name for task in compare.heldout]
    found = {(line["shrinkage"], line["seed"], line["kind"]): line for line in read_lines(LOSSES)}
    for kind, part, names in (("targets", "tune", targets), ("heldout", "heldout", heldout)):
        losses = load_losses(experiment.folder, part, compare, names)["top"][0]
        means = {name: float(values.mean()) for name, values in losses.items()}
        line = {"shrinkage": shrinkage, "seed": seed, "kind": kind, "losses": means}
        found[shrinkage, seed, kind] = line
    write_lines(LOSSES, [found[key] for key in sorted(found)])


def all_figures(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each shrinkage's mean loss minus that of none, by kind of task, and the mean of both."""
    losses: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for line in lines:
        by_kind = losses.setdefault(f"{line['shrinkage']:g}", {}).setdefault(line["seed"], {})
        by_kind[MEANS[line["kind"]]] = np.array([np.mean(list(line["losses"].values()))])
    for less in compare_losses(losses, NONE):
        if less.difference is not None:
            kind = "both" if less.target == ALL_TARGETS else less.target
            yield difference_figure(f"shrinkage_tune.{less.arm}.{kind}.minus_none", less)


if __name__ == "__main__":
    main()
