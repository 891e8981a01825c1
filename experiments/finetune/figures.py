"""Figures of a finished comparison of fine-tunes: losses minus random's, costs, lengths.

    python experiments/finetune/figures.py experiments/finetune/small.yaml [--part report]

Names begin with `finetune` for small.yaml, whose model is pretrained here, and with `finetune_NAME`
for NAME.yaml (smollm2.yaml's is an instruct model dequantised from Q4_1); on the tune part with
`_tune` behind it. Intervals are paired t over seeds. A cost is what selecting took, over the
training of one fine-tune, in FLOPs.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow.parquet as pq
from record import figure, write_figures

from dsdm.data.examples import counted_lengths
from dsdm.evaluation.comparison import ALL_TARGETS, compare_losses
from dsdm.evaluation.correlations import rank_correlations
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.measured import compared_costs, load_losses
from dsdm.reporting.view import RunView

CONTROLS = ("random", "repeated")
FIGURES = "finetune"
"""What the figures of small.yaml begin with."""


def main() -> None:
    """Writes the figures of one experiment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--part", default="report", choices=["tune", "report"])
    options = parser.parse_args()
    experiment = load_experiment(options.experiment)
    name = options.experiment.stem
    prefix = FIGURES if name == "small" else f"{FIGURES}_{name}"
    if options.part == "tune":
        prefix += "_tune"
    write_figures(prefix, list(comparison_figures(experiment, prefix, options.part)))


def comparison_figures(experiment: Experiment, prefix: str, part: str) -> Iterator[dict[str, Any]]:
    """Every figure of a finished comparison."""
    compare = experiment.compare
    assert compare is not None, "the experiment has no comparison"
    targets = [target.name for target in experiment.targets]
    losses = load_losses(experiment.folder, part, compare, targets)
    yield from loss_figures(losses, prefix)
    if part == "report" and compare.heldout:
        others = [task.name for task in compare.heldout]
        yield from loss_figures(
            load_losses(experiment.folder, "heldout", compare, others), f"{prefix}.heldout"
        )
    training, selection = compared_costs(experiment.folder, experiment, list(losses))
    for arm, cost in selection.items():
        if cost.flops:
            times = cost.flops / training[arm].flops
            yield figure(f"{prefix}.{method_of(arm)}.cost", times, "fine-tunes, in FLOPs")
    yield from length_figures(experiment, prefix)


def loss_figures(losses: Any, prefix: str) -> Iterator[dict[str, Any]]:
    """Each arm minus each control, on each target and on their mean."""
    for control in CONTROLS:
        for line in compare_losses(losses, control):
            if line.difference is None:
                continue
            target = "mean" if line.target == ALL_TARGETS else line.target
            found, over = line.difference, f"{line.num_pairs} seeds"
            if line.over == "examples":
                over = "1 seed, interval over examples"
            yield figure(
                f"{prefix}.{target}.{method_of(line.arm)}.loss_minus_{control}",
                found.mean,
                f"nats a target token, {over}",
                found.low,
                found.high,
            )


def length_figures(experiment: Experiment, prefix: str) -> Iterator[dict[str, Any]]:
    """How each estimator's scores go with the number of tokens that the assistant says."""
    folder = experiment.folder
    lengths = counted_lengths(RunView(folder, experiment).examples).astype(float)
    table = pq.read_table(folder / "scores" / "all" / "scores.parquet")
    for method in experiment.estimators:
        found = rank_correlations([table[method].to_numpy(), lengths])[0, 1]
        name = method_of("top" if method == experiment.selecting_estimator else method)
        yield figure(f"{prefix}.{name}.completion_correlation", found, "rank correlation")


def method_of(arm: str) -> str:
    """What an arm is called in the figures."""
    return "dsdm" if arm == "top" else arm.partition("-1epochs")[0]


if __name__ == "__main__":
    main()
