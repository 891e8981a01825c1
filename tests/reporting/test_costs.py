"""Costs of a run folder, by hand."""

from pathlib import Path

import pytest

from dsdm.artifacts import load_cost, write_json, writing
from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import load_experiment
from dsdm.reporting.measured import compared_costs, method_cost, selection_cost, training_cost
from dsdm.stages import run_experiment
from tests.tiny_runs import write_experiment

# Powers of two, so that a sum says what is in it.
COSTS = {
    "tokenizer": 1,
    "examples/00000": 2,
    "examples/00001": 4,
    "targets/squad": 8,
    "overlap/all": 16,
    "proxies/0": 32,
    "proxies/1": 64,
    "directions/ekfac/0": 128,
    "directions/ekfac/1": 256,
    "directions/trak/0": 512,
    "scores/ekfac/00000": 1024,
    "scores/trak/00000": 2048,
    "baselines/dsir": 4096,
    "baselines/semdedup": 8192,
    "selection": 16384,
    "dataset": 32768,
    "models/ekfac-0": 10,
    "models/ekfac-1": 30,
    "models/ekfac-bottom-0": 500,
    "models/random@2-0": 80,
    "evaluations/report/ekfac-0": 7,
}
TEXT = 1 + 2 + 4 + 8
PROXIES = 32 + 64
SELECTION = 16384


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with nothing but costs; every second is worth 10 FLOPs."""
    for name, seconds in COSTS.items():
        write_cost(tmp_path / name, seconds)
    # Left by runs that were killed.
    for name in ("baselines/.bm25.draft", "proxies/.2.draft", "models/.ekfac-2.draft"):
        write_cost(tmp_path / name, 1e9)
    return tmp_path


def write_cost(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "_cost.json", {"seconds": float(seconds), "flops": 10.0 * seconds})


def cost(seconds: float) -> MethodCost:
    return MethodCost(10.0 * seconds, float(seconds))


@pytest.mark.parametrize(
    ("place", "seconds"),
    [
        ("tokenizer", 1),
        ("examples", 6),
        ("proxies", 96),
        ("directions/ekfac", 384),
        ("scores", 3072),
        ("models", 620),
        ("baselines", 4096 + 8192),
    ],
)
def test_costs_of_all_finished_artifacts_in_a_place_are_added_up(run, place, seconds):
    assert method_cost(run / place) == cost(seconds)


def test_a_place_without_finished_artifacts_has_no_cost(tmp_path):
    assert method_cost(tmp_path / "proxies") is None


def test_artifacts_that_one_call_made_share_its_cost_or_have_it_each(tmp_path):
    for name in "01":
        write_cost(tmp_path / name, 8)
        write_json(tmp_path / name / "_cost.json", {"seconds": 8.0, "flops": 80.0, "made_with": 2})
    assert method_cost(tmp_path) == cost(16)
    assert method_cost(tmp_path, is_shared=True) == cost(8)


def test_an_estimator_needs_proxies_its_directions_and_its_scores(run):
    shared = TEXT + PROXIES + SELECTION
    assert selection_cost(run, "ekfac") == cost(shared + 128 + 256 + 1024)
    assert selection_cost(run, "trak") == cost(shared + 512 + 2048)


def test_a_baseline_needs_proxies_only_where_it_says_so(run):
    assert selection_cost(run, "dsir") == cost(TEXT + 4096 + SELECTION)
    assert selection_cost(run, "semdedup", needs_proxies=True) == cost(
        TEXT + PROXIES + 8192 + SELECTION
    )


@pytest.mark.parametrize(
    ("method", "gone"),
    [
        ("ekfac", "proxies"),
        ("ekfac", "scores/ekfac"),
        ("dsir", "targets"),
        ("bm25", "baselines/bm25"),
    ],
)
def test_a_cost_is_not_known_before_all_of_it_is_finished(run, method, gone):
    for file in (run / gone).rglob("_cost.json"):
        file.unlink()
    assert selection_cost(run, method) is None


def test_a_training_costs_the_mean_of_its_seeds(run):
    assert training_cost(run, "ekfac") == cost(20)
    assert training_cost(run, "ekfac-bottom") == cost(500)
    assert training_cost(run, "random@2") == cost(80)


def test_an_arm_without_a_finished_training_has_no_cost(run):
    assert training_cost(run, "random") is None


def test_an_artifacts_own_cost_file_is_read(tmp_path):
    with writing(tmp_path / "proxies" / "0", config={}, inputs={}) as draft:
        draft.flops, draft.seconds_before = 5.0, 100.0
    found = method_cost(tmp_path / "proxies")
    assert found.flops == 5
    assert found.seconds == load_cost(tmp_path / "proxies" / "0").seconds >= 100


def test_a_finished_run_says_what_its_selection_took(tiny: Path):
    run = run_experiment(load_experiment(tiny), until="selection").folder
    places = ["tokenizer", "examples", "targets", "topics", "proxies", "directions"]
    costs = [method_cost(run / name) for name in [*places, "scores/ekfac", "selection"]]
    total = sum((cost for cost in costs if cost is not None), MethodCost())
    found = selection_cost(run, "ekfac")
    assert found.flops == pytest.approx(total.flops)
    assert found.seconds == pytest.approx(total.seconds)
    assert found.flops > method_cost(run / "proxies").flops > 0


def test_arms_of_random_rows_select_for_nothing_and_controls_for_what_they_control(run):
    settings = {"arms": ("ekfac", "random", "random@2", "repeated", "source-matched")}
    experiment = load_experiment(write_experiment(run, compare=settings))
    training, selection = compared_costs(run, experiment, settings["arms"])
    assert training == {"ekfac": cost(20), "random@2": cost(80)}
    assert selection == {
        **dict.fromkeys(("random", "random@2", "repeated"), MethodCost()),
        **dict.fromkeys(("ekfac", "source-matched"), selection_cost(run, "ekfac")),
    }
