"""Costs of a run folder, by hand."""

from pathlib import Path

import pytest

from dsdm.artifacts import load_cost, write_json, writing
from dsdm.errors import ArtifactError
from dsdm.evaluation.multiplier import MethodCost
from dsdm.experiment import load_experiment
from dsdm.pipeline.costs import measured_costs, selection_cost, training_cost
from dsdm.stages import run_experiment

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


def test_costs_are_added_up_by_stage_and_method(run):
    assert measured_costs(run) == {
        "tokenizer": cost(1),
        "examples": cost(6),
        "targets": cost(8),
        "overlap/all": cost(16),
        "proxies": cost(96),
        "directions/ekfac": cost(384),
        "directions/trak": cost(512),
        "scores/ekfac": cost(1024),
        "scores/trak": cost(2048),
        "selection": cost(16384),
        "dataset": cost(32768),
        "models": cost(620),
        "evaluations": cost(7),
        "baselines/dsir": cost(4096),
        "baselines/semdedup": cost(8192),
    }


def test_an_empty_folder_has_no_costs(tmp_path):
    assert measured_costs(tmp_path) == {}


def test_an_estimator_needs_proxies_its_directions_and_its_scores(run):
    shared = TEXT + PROXIES + SELECTION
    assert selection_cost(run, "ekfac") == cost(shared + 128 + 256 + 1024)
    assert selection_cost(run, "trak") == cost(shared + 512 + 2048)


def test_a_baseline_needs_proxies_only_where_it_says_so(run):
    assert selection_cost(run, "dsir") == cost(TEXT + 4096 + SELECTION)
    assert selection_cost(run, "semdedup", needs_proxies=True) == cost(
        TEXT + PROXIES + 8192 + SELECTION
    )


@pytest.mark.parametrize("arm", ["random", "random@0.5", "repeated"])
def test_random_selects_for_nothing(run, arm):
    assert selection_cost(run, arm) == MethodCost()


@pytest.mark.parametrize(
    ("method", "gone"),
    [
        ("ekfac", "proxies"),
        ("ekfac", "scores/ekfac"),
        ("dsir", "targets"),
        ("bm25", "directions/bm25"),
    ],
)
def test_a_cost_that_is_not_known_is_an_error(run, method, gone):
    for file in (run / gone).rglob("_cost.json"):
        file.unlink()
    with pytest.raises(ArtifactError, match=f"{gone} is not finished.*selecting by {method} is"):
        selection_cost(run, method)


def test_a_training_costs_the_mean_of_its_seeds(run):
    assert training_cost(run, "ekfac") == cost(20)
    assert training_cost(run, "ekfac-bottom") == cost(500)
    assert training_cost(run, "random@2") == cost(80)


def test_an_arm_without_a_training_is_an_error(run):
    with pytest.raises(ArtifactError, match="no training of random is finished"):
        training_cost(run, "random")


def test_an_artifacts_own_cost_file_is_read(tmp_path):
    with writing(tmp_path / "proxies" / "0", config={}, inputs={}) as draft:
        draft.flops, draft.seconds_before = 5.0, 100.0
    found = measured_costs(tmp_path)["proxies"]
    assert found.flops == 5
    assert found.seconds == load_cost(tmp_path / "proxies" / "0").seconds >= 100


def test_a_finished_run_says_what_its_selection_took(tiny: Path):
    run = run_experiment(load_experiment(tiny), until="selection").folder
    found, costs = selection_cost(run, "ekfac"), measured_costs(run)
    left_out = ("overlap/all", "scores/all")
    total = sum((cost for name, cost in costs.items() if name not in left_out), MethodCost())
    assert found.flops == pytest.approx(total.flops)
    assert found.seconds == pytest.approx(total.seconds)
    assert found.flops > costs["proxies"].flops > 0
