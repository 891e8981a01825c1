"""A page that has every section, all of it in text that would like to be markup."""

import functools
import math
from typing import Any

import numpy as np
from markupsafe import Markup

from dsdm.checking.measured import Check, Measurements, Verdict
from dsdm.datamodel.columns import ScoreColumn
from dsdm.evaluation.comparison import Losses, compare_losses
from dsdm.evaluation.intervals import Interval
from dsdm.evaluation.multiplier import MethodCost, multipliers
from dsdm.reporting.figures import Figure
from dsdm.reporting.measured import StageCost
from dsdm.reporting.page import Header, Page
from dsdm.reporting.section import SECTIONS
from dsdm.reporting.sections.agreement import Matrix, MeanCorrelation
from dsdm.reporting.sections.chosen import chosen_overlap, chosen_sources
from dsdm.reporting.sections.compute import compute_curves, compute_plot
from dsdm.reporting.sections.examples import ShownExample
from dsdm.reporting.sections.sources import SourceShare
from dsdm.reporting.sections.transfer import transfer_matrices

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></p></details></style></select>"
    "<meta http-equiv=refresh content=0> \" onload='x' {{ 7*7 }} {% raw %} $\\frac{ \x00\u202e --> "
    "&lt;b&gt; \u05e9\u05dc\u05d5\u05dd " + "W" * 90
)
TARGETS = (HOSTILE, "b")
SELECTED = {"candidates": 1, "tokens": 40, "pool_candidates": 10, "pool_tokens": 400}
BUDGETS = {"random": 1.0, "random@0.5": 0.5, "random@2": 2.0}


def hostile_page(**changes: Any) -> Page:
    """Every section; `changes` are data of sections to replace, None leaves one out."""
    header = Header(HOSTILE, HOSTILE, [HOSTILE], {"numpy": "2"}, SELECTED)
    data = hostile_data() | changes
    shown = [(SECTIONS[name], found) for name, found in data.items() if found is not None]
    return Page(header, sorted(shown, key=lambda one: one[0].order))


def hostile_data() -> dict[str, Any]:
    """What each of the project's own sections might have collected."""
    columns = [ScoreColumn("m", 1, HOSTILE), ScoreColumn("m", 0, "a")]
    measured = Measurements(HOSTILE, rows=9, target_slopes={HOSTILE: Interval(0.0, -1.0, 1.0)})
    calibration = {"estimator": "m", "checkpoint": 0, "target": HOSTILE, "step": 1e-3}
    return compared() | {
        "chosen": {
            "sources": chosen_sources(
                chosen(), np.full(10, 40), np.arange(10) % 2, TARGETS, most_sources=9
            ),
            "overlap": chosen_overlap(chosen(), 10),
        },
        "sources": {
            "sources": [SourceShare(HOSTILE, 1.0, 0.5, 1, 5, 0.25)],
            "num_other": 0,
            "score_digits": 2,
        },
        "scores": {
            "is_cosine": False,
            "figures": [Figure(HOSTILE, Markup("<svg></svg>"), {})],
            "length_correlation": 0.5,
            "completion_correlation": None,
            "screened": HOSTILE,
        },
        "examples": browser(),
        "check": {
            "check": Check(measured, Verdict(False, [HOSTILE], [HOSTILE])),
            "figures": {HOSTILE: HOSTILE},
        },
        "agreement": {
            "means": [MeanCorrelation(HOSTILE, "proxies", "all", 1, 0.5)],
            "matrices": [Matrix(HOSTILE, "all", "", columns, np.full((2, 2), math.nan))],
        },
        "calibration": {
            "lines": [calibration | {"precision": "float32", "correlation": 0.999}],
            "min_correlation": 0.5,
        },
        "pool": {"counts": {"documents": 10}, "rejections": {HOSTILE: 2}},
        "overlap": {
            "targets": {HOSTILE: {"examples": 9, "overlapping": 3, "candidates": 2}},
            "is_dropped": False,
        },
        "cost": {"stages": [StageCost("scores", 1, 2.5, 1e12, 0.5)], "note": "note"},
        "config": HOSTILE,
    }


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
def compared() -> dict[str, Any]:
    """One part, with compute and transfer."""
    lines = compare_losses(losses())
    costs = {arm: MethodCost(BUDGETS.get(arm, 1.0), 1.0) for arm in losses()}
    found = multipliers(losses(), costs, {"m": MethodCost(1.0, 1.0)}, replicates=40)
    flops = {arm: cost.flops for arm, cost in costs.items()}
    targets, computed = [], []
    for number, target in enumerate(dict.fromkeys(line.target for line in lines)):
        own = [line for line in lines if line.target == target]
        curves = compute_curves(target, own, flops)
        targets.append({"name": target, "lines": own, "figure": None})
        worth = [line for line in found if line.target == target]
        figure = compute_plot(f"c{number}", curves, worth)
        computed.append({"name": target, "figure": figure, "multipliers": worth})
    part = {"part": "report", "title": "report"}
    return {
        "comparison": [part | {"targets": targets, "note": "note"}],
        "compute": [part | {"targets": computed}],
        "transfer": [part | {"matrices": transfer_matrices(lines, TARGETS, {})}],
    }


def chosen() -> dict[str, np.ndarray]:
    """What two arms chose of ten rows."""
    return {HOSTILE: np.array([0, 1, 2]), "random": np.array([2, 3])}


def browser(count: int = 4) -> dict[str, Any]:
    """Examples whose scores fall, in three groups."""
    groups = [list(range(count)), list(range(count))[::-1], [count, 1]]
    examples = [
        example(
            i,
            text=f"number{i} " + HOSTILE * 9,
            places=[(number, group.index(i)) for number, group in enumerate(groups) if i in group],
        )
        for i in range(count + 1)
    ]
    return {
        "checkpoints": [0, 1],
        "targets": [HOSTILE, "mix"],
        "other_estimators": [HOSTILE],
        "score_digits": 2,
        "groups": ["Best", "Worst", f"Best of {HOSTILE}"],
        "examples": examples,
    }


def example(candidate: int, **changes: Any) -> ShownExample:
    """An example of a hostile source; later candidates are longer and have lower scores."""
    parts = {
        "candidate": candidate,
        "places": [(0, 0)],
        "id": f"id{candidate} {HOSTILE}",
        "source": HOSTILE,
        "num_tokens": 40 + candidate,
        "score": 1.5 - candidate,
        "selected": candidate < 2,
        "checkpoint_scores": np.array([[math.nan, 1.0], [math.nan, 2.0 + candidate]]),
        "other_scores": [math.nan],
        "excerpt": HOSTILE,
        "text": HOSTILE * 9,
        "is_cut": False,
    }
    return ShownExample(**parts | changes)
