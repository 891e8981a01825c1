"""The committed experiments can be read, and figures come out of a finished comparison."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from dsdm.evaluation.curve import Bounded, Estimate
from dsdm.evaluation.multiplier import ArmMultiplier
from dsdm.experiment import load_experiment
from dsdm.stages import Run, run_experiment
from tests.data.pools import write_jsonl
from tests.tiny_runs import target_records, write_data, write_experiment

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CONFIGS = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if "corpus" not in path.parts)


def script(place: str) -> ModuleType:
    """A script of the experiments as a module."""
    path = EXPERIMENTS / place
    spec = importlib.util.spec_from_file_location(place.replace("/", "_").removesuffix(".py"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return script("compare/run.py")


@pytest.fixture(autouse=True)
def typed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures name the command that measured them."""
    monkeypatch.setattr(sys, "argv", [str(EXPERIMENTS / "compare" / "run.py")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_read(path: Path) -> None:
    load_experiment(path)


def test_every_cell_of_the_comparison_can_be_read(compare: ModuleType) -> None:
    for cell in compare.CELLS:
        experiment = compare.experiment_of(cell, cell.seeds[-1])
        assert experiment.compare.parts == ("tune", "report")


def test_a_seed_of_a_cell_has_a_run_of_its_own_on_the_same_pool(compare: ModuleType) -> None:
    first, second = (compare.experiment_of(compare.CELLS[0], s) for s in (0, 1))
    assert (first.seed, second.seed) == (0, 1)
    assert first.folder != second.folder
    assert first.pool == second.pool


def test_an_arm_of_a_place_is_of_one_run(compare: ModuleType) -> None:
    runs: dict[tuple[str, str], Path] = {}
    for cell in compare.CELLS:
        experiment = compare.experiment_of(cell, 0)
        for arm in experiment.compare.arms:
            assert runs.setdefault((cell.place, arm), experiment.folder) == experiment.folder


def test_a_cell_takes_over_what_another_has_finished(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [compare.cell_named(name) for name in ("long", "long-bottom")]
    long, folder = (compare.experiment_of(cell, 1).folder for cell in cells)
    (long / "proxies" / "0").mkdir(parents=True)
    (long / "baselines").mkdir()
    compare.link_finished(cells[1], 1, folder)
    assert [path.name for path in folder.iterdir()] == ["proxies"]


def test_a_link_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    linked = script("linked.py")
    part = tmp_path / "run" / "proxies"
    part.mkdir(parents=True)
    (part / "weights").write_text("w")
    (tmp_path / "other" / ".proxies.draft" / "half").mkdir(parents=True)
    linked.link_parts(tmp_path / "run", tmp_path / "other", ["proxies"])
    assert [path.name for path in (tmp_path / "other").rglob("*")] == ["proxies", "weights"]


def test_figures_that_were_not_measured_again_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = script("record.py")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    rows = [
        {"name": name, "value": value, "low": None, "unit": "x"}
        for name, value in (("b", 1.0), ("a", 2.0))
    ]
    record.write_figures("f", rows)
    record.add_figures("f", [rows[0] | {"value": 3.0}])
    found = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert [(row["name"], row["value"]) for row in found] == [("a", 2.0), ("b", 3.0)]


def test_every_set_up_of_the_check_can_be_read() -> None:
    check = script("check/check.py")
    experiments = [check.experiment_of(setup) for setup in check.SETUPS]
    assert len({experiment.folder for experiment in experiments}) == len(experiments)
    for experiment in experiments:
        assert experiment.compare.parts == ("tune",)


def test_randoms_largest_budget_repeats_no_row(compare: ModuleType) -> None:
    for cell in compare.CELLS:
        experiment = compare.experiment_of(cell, 0)
        budgets = [arm.budget for arm in experiment.compared_arms if arm.kind == "random"]
        largest = max(budgets, default=0.0)
        assert largest * experiment.compare.epochs * experiment.selection.fraction < 0.9


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cell")
    write_data(folder)
    write_jsonl(folder / "other.jsonl", target_records(40)[20:])
    files = {"a": "target", "b": "other"}
    path = write_experiment(
        folder,
        targets=[{"name": n, "file": str(folder / f"{f}.jsonl")} for n, f in files.items()],
        selection={"fraction": 0.1},
        compare={
            "arms": ["top", "dsir", "source-matched", "random", "random@2", "random@4"],
            "epochs": 1,
            "seeds": 2,
            "heldout": [{"name": n, "file": str(folder / f"{f}.jsonl")} for n, f in files.items()],
        },
    )
    return run_experiment(load_experiment(path))


def test_a_cells_figures_are_the_differences_of_its_models(
    compare: ModuleType, finished: Run
) -> None:
    cell = compare.cell_named("primary")
    lines = list(compare.measured_lines(cell, 0, finished.experiment))
    rows = {row["name"]: row for row in compare.all_figures(lines, "report", ["a", "b"])}
    folder = finished.folder / "evaluations" / "report"

    def mean_loss(arm: str, target: str) -> float:
        return np.mean([np.load(folder / f"{arm}-{s}" / f"{target}.npy").mean() for s in (0, 1)])

    found = rows["primary.a.dsir.loss_minus_random"]["value"]
    assert found == pytest.approx(mean_loss("dsir", "a") - mean_loss("random", "a"))
    mix = rows["primary.mix.dsdm.minus_sourcematched"]
    wanted = np.mean([mean_loss("top", t) - mean_loss("source-matched", t) for t in "ab"])
    assert mix["value"] == pytest.approx(wanted)
    assert mix["low"] < mix["value"] < mix["high"]
    assert rows["compare.mixed.2m.2m.mix.dsdm.multiplier_gross"]["value"] > 0
    net = rows["primary.mix.dsdm.multiplier_net"]["value"]
    assert 0 < net < rows["primary.mix.dsdm.multiplier_gross"]["value"]
    for name in ("compare.mixed.2m.2m", "primary"):
        assert f"{name}.heldout_mean.dsdm.loss_minus_random" in rows
    assert not any("random@" in name for name in rows)


def test_the_transfer_matrix_has_a_figure_for_each_pair(
    compare: ModuleType, finished: Run, tmp_path: Path
) -> None:
    changed = msgspec.structs.replace(
        finished.experiment,
        scores=msgspec.structs.replace(finished.experiment.scores, per_target=True),
        run=str(tmp_path / "run"),
        compare=msgspec.structs.replace(
            finished.experiment.compare, arms=("random", "top:a", "top:b", "dsir:a"), seeds=1
        ),
    )
    run_experiment(changed)
    cell = compare.cell_named("singles")
    lines = list(compare.measured_lines(cell, 0, changed))
    rows = list(compare.all_figures(lines, "report", ["a", "b"]))
    # An interval over the examples of one seed would not say what another seed changes.
    assert all(row["low"] is None for row in rows)
    assert {row["name"] for row in rows} == {
        *(f"transfer.{chosen}.{seen}" for chosen in "ab" for seen in "ab"),
        *(f"transfer_dsir.a.{seen}" for seen in "ab"),
    }


def test_places_borrow_random_from_another_cell(compare: ModuleType) -> None:
    cost = {"flops": 1.0, "seconds": 1.0}
    lines = [
        {"place": place, "part": "tune", "arm": arm, "seed": seed, "losses": {"a": loss + seed}}
        | {"training": cost, "selection": cost}
        for place, arm, loss in (
            (compare.PRIMARY, "random", 5.0),
            (compare.PRIMARY, "random@4", 4.0),
            (compare.LONGER, "top-8epochs@4", 3.5),
            (compare.SHORT, "top", 4.2),
            (compare.CLEAN, "random", 6.0),
            (compare.CLEAN_PAIR, "top", 5.9),
            (compare.SLOPES, "top", 4.7),
            (compare.TRANSFER, "top:a", 4.6),
            (compare.TRANSFER_LONG, "top:a", 4.5),
        )
        for seed in (0, 1)
    ]
    rows = {row["name"]: row["value"] for row in compare.all_figures(lines, "tune", ["a"])}
    assert rows["compare.mixed.2m.8m.a.dsdm.loss_minus_random"] == pytest.approx(-0.5)
    assert rows["compare.short.2m.2m.a.dsdm.loss_minus_random"] == pytest.approx(-0.8)
    assert rows["compare.slopes.2m.2m.a.dsdm.loss_minus_random"] == pytest.approx(-0.3)
    assert rows["transfer.a.a"] == pytest.approx(-0.4)
    assert rows["transfer_long.a.a"] == pytest.approx(-0.5)
    assert rows["compare.cleanpair.2m.2m.a.dsdm.loss_minus_random"] == pytest.approx(-0.1)
    assert not any(name.startswith("compare.mixed.2m.2m.a.dsdm") for name in rows)


def test_figures_of_the_tune_part_have_names_of_their_own(compare: ModuleType) -> None:
    assert compare.tune_name("primary.mix.dsdm.minus_dsir") == "primary_tune.mix.dsdm.minus_dsir"


def test_a_figure_that_is_a_bound_is_written_as_one(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS.parent / "docs"))
    pages = importlib.import_module("make_results")
    gross = Estimate(Bounded(1.0, "at most"), Bounded(1.0, "at most"), Bounded(1.25))
    (row,) = compare._multiplier_rows("x", ArmMultiplier("a", "bottom", 3, gross, None, None))
    assert row["bounds"] == ["at most", "at most", ""]
    assert pages.format_cell(row) == "≤ 1.00 [≤ 1.00, 1.25]"
    assert "| ≤ 1 | ≤ 1 to 1.25 |" in pages.format_row(row)


def test_what_is_measured_again_replaces_what_was(compare: ModuleType, tmp_path: Path) -> None:
    def line(arm: str, seed: int, loss: float) -> dict[str, object]:
        key = {"place": "mixed.2m.2m", "part": "tune", "arm": arm, "seed": seed}
        return key | {"losses": {"a": loss}}

    path = tmp_path / "losses.jsonl"
    compare.add_lines(path, [line("top", 1, 2.0), line("top", 0, 1.0) | {"commit": "first"}])
    compare.add_lines(path, [line("top", 1, 3.0), line("top", 0, 1.0) | {"commit": "later"}])
    assert [one.get("commit") for one in compare.read_lines(path)] == ["first", None]
    found = compare.losses_of(compare.read_lines(path))
    assert {seed: tasks["a"].item() for seed, tasks in found["top"].items()} == {0: 1.0, 1: 3.0}


def test_screening_is_measured_beside_the_full_scoring(tmp_path: Path) -> None:
    screening = script("screening.py")
    write_data(tmp_path)
    path = write_experiment(tmp_path, selection={"fraction": 0.1}, compare={"arms": ["top"]})
    one = screening.measured(path, [], 0, "{sample: 0.4, share: 0.6}")
    assert set(one) == set(screening.UNITS)
    assert one["top10.score"] <= 1
    assert one["rows"] == pytest.approx(0.6, abs=0.1)
    assert 0.5 < one["flops"] < 0.8
    row = screening.mean_figure("top10.score", [0.9, 1.0])
    assert row["value"] == pytest.approx(0.95)
    assert row["low"] < 0.95 < row["high"]
