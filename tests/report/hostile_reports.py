"""A report that has every section, all of it in text that would like to be markup."""

import functools
import math
from typing import Any

import numpy as np
from markupsafe import Markup

from dsdm.evaluation.comparison import Losses, compare_losses
from dsdm.evaluation.multiplier import MethodCost, multipliers
from dsdm.report.chosen import chosen_overlap, chosen_sources
from dsdm.report.compute_curves import compute_curves, compute_readings
from dsdm.report.examples import ExampleGroup, ExamplesBrowser, ShownExample
from dsdm.report.figures_compute import compute_plot
from dsdm.report.parts import (
    Calibration,
    ComparedTarget,
    Comparison,
    Figure,
    Matrix,
    Selected,
    SourceShare,
    StageCost,
    TargetOverlap,
)
from dsdm.report.render import Report
from dsdm.report.transfer import transfer_matrices

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></p></details></style></select>"
    "<meta http-equiv=refresh content=0> \" onload='x' {{ 7*7 }} {% raw %} $\\frac{ \x00\u202e --> "
    "&lt;b&gt; \u05e9\u05dc\u05d5\u05dd " + "W" * 90
)
TARGETS = (HOSTILE, "b")
BUDGETS = {"random": 1.0, "random@0.5": 0.5, "random@2": 2.0}


def hostile_report(**changes: Any) -> Report:
    """Every section; `changes` are fields to replace."""
    parts = {
        "title": HOSTILE,
        "method": HOSTILE,
        "targets": [HOSTILE],
        "config": HOSTILE,
        "versions": {"numpy": "2"},
        "selected": Selected(1, 40, 10, 400),
        "comparisons": [comparison()],
        "chosen_sources": chosen_sources(chosen(), np.full(10, 40), np.arange(10) % 2, TARGETS, 9),
        "chosen_overlap": chosen_overlap(chosen(), 10),
        "sources": [SourceShare(HOSTILE, 1.0, 0.5, 1, 5, 0.25)],
        "score_figures": [Figure(HOSTILE, Markup("<svg></svg>"), {})],
        "examples": browser(),
        "matrices": [Matrix(HOSTILE, "all", "", [HOSTILE, "m.0.a"], np.full((2, 2), math.nan))],
        "calibrations": [Calibration("m", "0", HOSTILE, 1e-3, 0.999, "float32")],
        "counts": {"documents": 10},
        "rejections": {HOSTILE: 2},
        "overlaps": [TargetOverlap(HOSTILE, 9, 3, 2)],
        "costs": [StageCost("scores", 1, 2.5, 1e12, 0.5)],
        "cost_note": "note",
    }
    return Report(**parts | changes)


def losses() -> Losses:
    """Three seeds of random at three budgets and of two arms selected for one target."""
    means = {"random": 3.0, "random@0.5": 3.5, "random@2": 2.5, "m": 2.7}
    means |= {f"m:{target}": 2.8 for target in TARGETS}
    rng = np.random.default_rng(0)
    return {
        arm: {
            seed: {target: mean + 0.01 * rng.normal(size=8) for target in TARGETS}
            for seed in range(3)
        }
        for arm, mean in means.items()
    }


@functools.cache
def comparison() -> Comparison:
    """One part, with compute and transfer."""
    lines = compare_losses(losses())
    costs = {arm: MethodCost(BUDGETS.get(arm, 1.0), 1.0) for arm in losses()}
    found = multipliers(losses(), costs, {"m": MethodCost(1.0, 1.0)}, replicates=40)
    flops = {arm: cost.flops for arm, cost in costs.items()}
    targets = []
    for number, target in enumerate(dict.fromkeys(line.target for line in lines)):
        own = [line for line in lines if line.target == target]
        curves = compute_curves(target, own, flops)
        figure = compute_plot(f"c{number}", target, curves, compute_readings(target, curves, found))
        worth = [line for line in found if line.target == target]
        targets.append(ComparedTarget(target, own, None, figure, worth))
    return Comparison("report", targets, "note", transfer_matrices(lines, TARGETS, {}))


def chosen() -> dict[str, np.ndarray]:
    """What two arms chose of ten candidates."""
    return {HOSTILE: np.array([0, 1, 2]), "random": np.array([2, 3])}


def browser(count: int = 4) -> ExamplesBrowser:
    """Examples whose scores fall, in three groups."""
    groups = [
        ExampleGroup("Best", "rank", list(range(count))),
        ExampleGroup("Worst", "rank", list(range(count))[::-1]),
        ExampleGroup(f"Best of {HOSTILE}", "source", [count, 1]),
    ]
    examples = [example(i, text=f"number{i} " + HOSTILE * 9) for i in range(count + 1)]
    return ExamplesBrowser(["0", "1"], [HOSTILE, "mix"], [HOSTILE], groups, examples)


def example(candidate: int, **changes: Any) -> ShownExample:
    """An example of a hostile source; later candidates are longer and have lower scores."""
    parts = {
        "candidate": candidate,
        "id": f"id{candidate} {HOSTILE}",
        "source": HOSTILE,
        "num_tokens": 40 + candidate,
        "score": 1.5 - candidate,
        "selected": candidate < 2,
        "proxy_scores": np.array([[math.nan, 1.0], [math.nan, 2.0 + candidate]]),
        "other_scores": [math.nan],
        "excerpt": HOSTILE,
        "text": HOSTILE * 9,
        "is_cut": False,
    }
    return ShownExample(**parts | changes)
