"""Whether the verdict of `dsdm check` agrees with what retraining shows, on good and bad set-ups.

    python experiments/check/check.py [SETUP ...] [--workers 2]

A set-up is check.yaml with overrides. The truth is what a user would find out by spending the
compute: three models trained on the selection against three on random rows, on the tune part. The
selection helps where the paired t-interval of the difference lies below zero, and does not where
there is none, since the run ends with an error. Three are broken on purpose; the last five were
made up after the check was finished. What a set-up has in common with the sound one, which comes
first, is not made again: its proxies, and the models of random rows.

`pilot` is the comparison's first seed, whose truth is in the figures of compare/run.py.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from linked import experiment_of_seed, link_parts
from record import add_figures, figure

from dsdm.artifacts import MANIFEST, write_json
from dsdm.datamodel.direction import load_direction, save_direction
from dsdm.errors import NumericalError
from dsdm.evaluation.comparison import compare_losses
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.measured import load_losses
from dsdm.stages import Workers, run_check, run_experiment
from dsdm.stages.check import load_check

HERE = Path(__file__).parent
PILOT = "pilot"
LAMBADA = "{name: lambada, file: experiments/quickstart/targets/lambada.jsonl}"


@dataclass(frozen=True)
class Setup:
    """One experiment, and what is wrong with it where something is."""

    name: str
    overrides: tuple[tuple[str, str], ...] = ()
    is_flipped: bool = False
    """Its directions are turned round when they are finished."""

    @property
    def shared(self) -> tuple[str, ...]:
        """Parts of the sound set-up's run that it has too."""
        changed = {name.partition(".")[0] for name, _ in self.overrides}
        if "examples" in changed:
            return ()
        parts = ("tokenizer", "examples", *(f"models/random-{seed}" for seed in range(3)))
        return parts if "proxies" in changed else (*parts, "proxies")


SOUND = Setup("sound")
SETUPS = (
    SOUND,
    Setup(
        "undamped",
        (
            ("directions.ekfac.damping", "0.0"),
            ("directions.ekfac.curvature_rows", "12"),
            # Forward scoring refuses such directions, and retraining would have nothing to show.
            ("scores.mode", "backward"),
        ),
    ),
    Setup("flipped", is_flipped=True),
    Setup("barely_trained", (("proxies.epochs", "0.1"),)),
    Setup("one_target", (("targets", f"[{LAMBADA}]"),)),
    Setup(
        "four_examples",
        (("targets", f"[{LAMBADA[:-1]}, limit: 8}}]"),),
    ),
    Setup("rate_too_high", (("proxies.train.lr", "0.1"),)),
    Setup("margin", (("directions.output", "margin"),)),
    Setup(
        "short_rows_plain_gradient",
        (("examples.row_tokens", "128"), ("directions.estimators", "[gradient]")),
    ),
)


def main() -> None:
    """Makes what is missing and writes the figures of the set-ups that are named, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*(setup.name for setup in SETUPS), PILOT]
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=", ".join(names))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.setups) - set(names):
        parser.error(f"no such set-up: {', '.join(sorted(unknown))}")
    chosen = [s for s in SETUPS if not options.setups or s is SOUND or s.name in options.setups]
    workers = Workers(options.workers)
    rows = [row for setup in chosen for row in figures_of(setup, workers)]
    if not options.setups:
        agreeing = sum(row["value"] for row in rows if row["name"].endswith(".agrees"))
        rows.append(figure("check.agreeing", int(agreeing), f"of {len(chosen)} set-ups"))
    if not options.setups or PILOT in options.setups:
        pilot = experiment_of_seed(HERE.parent / "compare" / "mixed.yaml", [], 0)
        rows.append(verdict_figure(PILOT, pilot, workers))
    add_figures("check", rows)


def experiment_of(setup: Setup) -> Experiment:
    """The set-up as an experiment."""
    path = HERE / "check.yaml"
    folder = f"{load_experiment(path).run}/{setup.name}"
    return load_experiment(path, [*setup.overrides, ("run", folder)])


def figures_of(setup: Setup, workers: Workers) -> Iterator[dict[str, Any]]:
    """The verdict, the truth, and whether they agree."""
    experiment = experiment_of(setup)
    if setup is not SOUND:
        link_parts(experiment_of(SOUND).folder, experiment.folder, setup.shared)
    if setup.is_flipped:
        run_experiment(experiment, until="directions", workers=workers)
        flip(experiment.folder)
    row = verdict_figure(setup.name, experiment, workers)
    trust = bool(row["value"])
    yield row
    try:
        run_experiment(experiment, workers=workers)
    except NumericalError as error:
        # There is no selection, so none that helps.
        print(f"{setup.name}: {error}", file=sys.stderr)
        yield _agreement(setup, trust, helps=False)
        return
    assert experiment.compare is not None
    targets = [target.name for target in experiment.targets]
    losses = load_losses(experiment.folder, "tune", experiment.compare, targets)
    # The last line of the arm is the mean of targets, or the one target.
    *_, line = (line for line in compare_losses(losses) if line.arm == "top")
    found = line.difference
    assert found is not None
    unit = f"nats a target token, {line.num_pairs} seeds"
    yield figure(f"check.{setup.name}.top_minus_random", found.mean, unit, found.low, found.high)
    yield _agreement(setup, trust, helps=found.high < 0)


def verdict_figure(name: str, experiment: Experiment, workers: Workers) -> dict[str, Any]:
    """Whether the scores of an experiment can be trusted."""
    verdict = load_check(run_check(experiment, workers=workers).folder).verdict
    print(f"{name}: {verdict}", file=sys.stderr)
    return figure(f"check.{name}.verdict", int(verdict.trust), "1: trust")


def _agreement(setup: Setup, trust: bool, *, helps: bool) -> dict[str, Any]:
    unit = "1: verdict and retraining agree"
    return figure(f"check.{setup.name}.agrees", int(trust == helps), unit)


def flip(run_folder: Path) -> None:
    """Turns every finished direction round, once, as if it had been written so."""
    mark = run_folder / "flipped"
    if mark.exists():
        return
    shutil.rmtree(run_folder / "check", ignore_errors=True)
    for path in run_folder.glob("directions/*/*/*.safetensors"):
        save_direction(load_direction(path).scaled(-1.0), path)
        manifest = json.loads((path.parent / MANIFEST).read_text())
        manifest.pop("files", None)
        write_json(path.parent / MANIFEST, manifest)
    mark.touch()


if __name__ == "__main__":
    main()
