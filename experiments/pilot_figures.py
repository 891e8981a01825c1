"""The pilot's figures, from the evaluations of a finished run, with t-intervals over seeds.

    python experiments/pilot_figures.py [RUN] [--part report]

Differences are paired by seed. Run `dsdm run experiments/pilot.yaml` first.
"""

import argparse
from pathlib import Path

from record import ROOT, figure, write_figures

from dsdm.evaluation.comparison import compare_losses
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.measured import load_losses
from dsdm.stages import run_status

CONTROLS = {"random": "random", "repeated": "repeated"}
ESTIMATORS = ("ekfac", "trak", "gradient")


def main() -> None:
    """Writes `pilot.ESTIMATOR.TARGET.*` figures, or `pilot_tune...` for the tune part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "../runs/pilot")
    parser.add_argument("--part", default="report", choices=["tune", "report"])
    options = parser.parse_args()
    experiment = load_experiment(options.run / "experiment.yaml")
    assert experiment.compare is not None, "the run has no comparison"
    _check_fresh(experiment, options.part)
    targets = [target.name for target in experiment.targets]
    losses = load_losses(options.run, options.part, experiment.compare, targets)
    prefix = "pilot" if options.part == "report" else "pilot_tune"
    rows = []
    for control in CONTROLS:
        for line in compare_losses(losses, control):
            name = _figure_name(line.arm, line.target, control)
            if name is None or line.difference is None:
                continue
            seeds = len(set(losses[line.arm]) & set(losses[control]))
            unit = f"nats a target token, {seeds} seed{'s' * (seeds > 1)}"
            found = line.difference
            rows.append(figure(f"{prefix}.{name}", found.mean, unit, found.low, found.high))
    write_figures(prefix, rows)


def _check_fresh(experiment: Experiment, part: str) -> None:
    """Nothing that is evaluated was made with other settings than the experiment's."""
    found = [status for status in run_status(experiment) if f"/{part}/" in status.work.name]
    assert found, f"the run was not evaluated on its {part} part"
    stale = [status.work.name for status in found if status.state == "stale"]
    assert not stale, f"made with other settings: {', '.join(stale)}"


def _figure_name(arm: str, target: str, control: str) -> str | None:
    """The figure's dotted name; None for a difference that nobody asked for."""
    estimator, _, suffix = arm.partition("-")
    place = "bottom10" if suffix == "bottom" else "top10"
    if estimator not in ESTIMATORS or (control == "repeated" and place == "bottom10"):
        return None
    target = "mean" if " " in target else target
    return f"{estimator}.{target}.{place}_minus_{control}"


if __name__ == "__main__":
    main()
