"""The comparison in the report of a real run."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsdm.artifacts import write_json
from dsdm.experiment import Experiment
from dsdm.pipeline.report import collect_report, write_run_report
from dsdm.pipeline.report_compared import comparisons
from tests.pipeline.conftest import copy_of


def add_arm(folder: Path, arm: str, original: str, times: int) -> None:
    """An arm with the losses of another, trained for `times` as much."""
    for seed in range(2):
        model = shutil.copytree(
            folder / "models" / f"{original}-{seed}", folder / "models" / f"{arm}-{seed}"
        )
        cost = json.loads((model / "_cost.json").read_text())
        write_json(model / "_cost.json", {name: times * value for name, value in cost.items()})
        evaluations = folder / "evaluations" / "report"
        shutil.copytree(evaluations / f"{original}-{seed}", evaluations / f"{arm}-{seed}")


def add_candidates(folder: Path, chosen: dict[str, list[int]]) -> None:
    for arm, candidates in chosen.items():
        np.save(folder / "models" / f"{arm}-0" / "candidates.npy", np.array(candidates))


def with_arms(experiment: Experiment, arms: tuple[str, ...]) -> Experiment:
    compare = msgspec.structs.replace(experiment.compare, arms=arms)
    return msgspec.structs.replace(experiment, compare=compare)


def test_one_budget_of_random_gives_no_curve(run):
    (comparison,) = collect_report(run.folder).comparisons
    assert [target.compute_figure for target in comparison.targets] == [None]
    assert comparison.targets[0].multipliers == []


def test_arms_at_other_budgets_and_for_single_targets_are_compared(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for arm, original, times in (("random@2", "random", 2), ("ekfac:words", "top", 1)):
        add_arm(folder, arm, original, times)
    add_candidates(folder, {"top": [0, 1, 2], "random": [2, 3], "random@2": [0]})
    arms = ("top", "random", "random@2", "ekfac:words")
    (comparison,) = comparisons(folder, with_arms(run.experiment, arms))
    (target,) = comparison.targets
    curves = target.compute_figure.data["curves"]
    assert {curve.name: list(curve.arms) for curve in curves} == {
        "random": ["random", "random@2"],
        "top": ["top"],
        "ekfac:words": ["ekfac:words"],
    }
    assert curves[0].flops[1] == pytest.approx(2 * curves[0].flops[0])
    assert [line.arm for line in target.multipliers] == ["top", "ekfac:words"]
    assert all(line.net_flops.multiplier.value.value > 0 for line in target.multipliers)
    assert [list(matrix.arms) for matrix in comparison.transfers] == [["ekfac:words", "top"]]


def test_what_arms_chose_is_read_where_the_run_kept_it(run, tmp_path):
    folder = copy_of(run, tmp_path)
    kept = np.load(folder / "models" / "top-0" / "candidates.npy")
    assert collect_report(folder).chosen_overlap.num_candidates[0] == len(kept)
    for path in folder.glob("models/*/candidates.npy"):
        path.unlink()
    assert collect_report(folder).chosen_sources is None
    add_candidates(folder, {"top": [0, 1, 2, 2], "random": [2, 3]})
    report = collect_report(folder)
    assert report.chosen_sources.arms == ["pool", "top", "random"]
    assert report.chosen_overlap.num_candidates == [3, 2]
    assert report.chosen_overlap.shares[0, 1] == pytest.approx(1 / 3)
    assert 'id="chosen"' in write_run_report(folder).read_text(encoding="utf-8")
