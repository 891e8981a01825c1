"""The comparison in the report of a real run."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsdm.artifacts import write_json
from dsdm.experiment import Experiment
from dsdm.reporting.page import write_run_report
from dsdm.reporting.view import RunView
from tests.reporting.conftest import copy_of, data_of


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


def add_rows(folder: Path, chosen: dict[str, list[int]]) -> None:
    for arm, rows in chosen.items():
        np.save(folder / "models" / f"{arm}-0" / "rows.npy", np.array(rows))


def with_arms(experiment: Experiment, arms: tuple[str, ...]) -> Experiment:
    compare = msgspec.structs.replace(experiment.compare, arms=arms)
    return msgspec.structs.replace(experiment, compare=compare)


def test_one_budget_of_random_gives_no_curve(run):
    assert data_of(run, "compute") is None
    assert [part["part"] for part in data_of(run, "comparison")] == ["report"]


def test_arms_at_other_budgets_and_for_single_targets_are_compared(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for arm, original, times in (("random@2", "random", 2), ("ekfac:words", "top", 1)):
        add_arm(folder, arm, original, times)
    add_rows(folder, {"top": [0, 1, 2], "random": [2, 3], "random@2": [0]})
    arms = ("top", "random", "random@2", "ekfac:words")
    more = RunView(folder, with_arms(run.experiment, arms))
    (compute,) = data_of(more, "compute")
    (target,) = compute["targets"]
    curves = target["figure"].data["curves"]
    assert {curve.name: list(curve.arms) for curve in curves} == {
        "random": ["random", "random@2"],
        "top": ["top"],
        "ekfac:words": ["ekfac:words"],
    }
    assert curves[0].flops[1] == pytest.approx(2 * curves[0].flops[0])
    assert [line.arm for line in target["multipliers"]] == ["top", "ekfac:words"]
    assert all(line.net_flops.multiplier.value.value > 0 for line in target["multipliers"])
    (transfer,) = data_of(more, "transfer")
    assert [list(matrix.arms) for matrix in transfer["matrices"]] == [["ekfac:words", "top"]]
    assert data_of(more, "chosen")["overlap"]["arms"] == ["top", "random", "ekfac:words"]


def test_what_arms_chose_is_counted_in_rows_that_were_trained_on(run, tmp_path):
    folder = copy_of(run, tmp_path)
    add_rows(folder, {"top": [0, 1, 2], "random": [2, 3]})
    chosen = data_of(folder, "chosen")
    assert chosen["sources"]["arms"] == ["pool", "top", "random"]
    assert chosen["overlap"]["num_rows"] == [3, 2]
    assert chosen["overlap"]["shares"][0, 1] == pytest.approx(1 / 3)
    assert 'id="chosen"' in write_run_report(folder).read_text(encoding="utf-8")


def test_an_arm_of_random_rows_has_the_tokens_that_it_was_trained_on(run):
    sources = data_of(run, "chosen")["sources"]
    rows = np.load(run.folder / "models" / "random-0" / "rows.npy")
    lengths, candidates = run.examples.lengths[rows], run.examples.candidate_of_row[rows]
    # Its documents have more rows than those.
    assert lengths.sum() < run.scores.num_tokens[np.unique(candidates)].sum()
    of_source = run.scores.source_names.index(sources["sources"][0])
    share = lengths[run.scores.sources[candidates] == of_source].sum() / lengths.sum()
    assert sources["shares"][sources["arms"].index("random"), 0] == pytest.approx(share)
