"""A proxy's training followed backwards, from file to scores."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.artifacts import load_cost
from dsdm.checking.sample import load_sample
from dsdm.experiment import Experiment
from tests.tiny_runs import Dsdm, write_data, write_experiment


def write(folder: Path, **directions: object) -> Path:
    write_data(folder)
    settings = {"estimators": ["metagradient", "gradient"], "output": "loglik"} | directions
    return write_experiment(
        folder, proxies={"count": 2, "checkpoints": 2, "epochs": 2.0}, directions=settings
    )


@pytest.mark.parametrize("scoring", ["forward", "backward"])
def test_scores_are_the_plain_mean_over_checkpoints(
    tmp_path: Path, dsdm: Dsdm, scoring: str
) -> None:
    code, _, err = dsdm("run", write(tmp_path), "--scores.mode", scoring)
    assert code == 0, err
    run = tmp_path / "run"
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    columns = [table[f"metagradient.{i}.mix"].to_numpy() for i in range(4)]
    np.testing.assert_allclose(table["metagradient"], np.mean(columns, axis=0), rtol=1e-5)
    # The gradient's checkpoints count by their learning rates.
    rates = [json.loads((run / "proxies" / str(i) / "rates.json").read_text()) for i in (0, 1)]
    weights = np.concatenate([np.array(rate) / sum(rate) / 2 for rate in rates])
    columns = [table[f"gradient.{i}.mix"].to_numpy() for i in range(4)]
    expected = np.average(columns, axis=0, weights=weights)
    np.testing.assert_allclose(table["gradient"], expected, rtol=1e-5)


def test_a_training_is_followed_once_for_all_of_its_checkpoints(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write(tmp_path)
    assert dsdm("run", experiment, "--until", "directions")[0] == 0
    folder = tmp_path / "run" / "directions" / "metagradient"
    costs = [load_cost(folder / str(i)) for i in range(4)]
    assert [cost.made_with for cost in costs] == [2, 2, 2, 2]
    # Each has what both of its training took.
    assert costs[0].flops == costs[1].flops


def test_it_is_of_the_loss_that_was_trained(tmp_path: Path, dsdm: Dsdm) -> None:
    code, _, err = dsdm("run", write(tmp_path, output="margin"))
    assert code == 2
    assert "set directions.output to loglik" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores.cosine": "true"}, "which scores.cosine leaves out"),
        ({"proxies.checkpoints": "3"}, "the first of 3 checkpoints is before"),
        ({"proxies.first_checkpoint": "0.6"}, "checkpoints at equal distances"),
    ],
)
def test_what_contradicts_it_is_refused(
    tmp_path: Path, dsdm: Dsdm, changes: dict[str, str], message: str
) -> None:
    overrides = [word for key, value in changes.items() for word in (f"--{key}", value)]
    code, _, err = dsdm("run", write(tmp_path), *overrides)
    assert code == 2
    assert message in err


def test_a_check_follows_the_training_for_each_half_of_a_target(tmp_path: Path, dsdm: Dsdm) -> None:
    probe = {"groups": 2, "steps": 4, "batch_tokens": 64}
    small = {"rows": 40, "exact_rows": 8, "tune_examples": 4, "probe": probe}
    path = write_experiment(
        tmp_path,
        proxies={"count": 1, "epochs": 4.0},
        directions={"estimators": ["metagradient"]},
        check=small,
    )
    write_data(tmp_path)
    code, _, err = dsdm("check", path)
    assert code == 0, err
    run = tmp_path / "run"
    with np.load(run / "check" / "halves" / "halves.npz") as arrays:
        halves = [arrays[f"{half}.words"] for half in ("first", "second")]
        counts = arrays["counts.words"]
    # Directions are linear in the target's mean gradient; the run's own is of unit spread.
    whole = np.average(halves, axis=0, weights=counts)
    sample = load_sample(run / "check" / "samples" / "0" / "sample.npz")
    assert np.corrcoef(whole, sample.scores["words"])[0, 1] > 0.9999


def test_adapters_are_followed_back_unasked() -> None:
    unset = {
        "run": "run",
        "pool": {"files": ["pool"]},
        "targets": [{"name": "a", "file": "a.jsonl"}],
        "selection": {"fraction": 0.1},
        "model": {"path": "model"},
    }
    assert msgspec.convert(unset, Experiment).estimators == ("ekfac",)
    unset["model"] = {"path": "model", "lora": {}}
    assert msgspec.convert(unset, Experiment).estimators == ("metagradient",)


def test_a_dry_run_counts_the_replay(tmp_path: Path, dsdm: Dsdm) -> None:
    def tokens_of(estimator: str) -> str:
        path = write_experiment(
            tmp_path,
            proxies={"count": 1, "epochs": 200.0},
            directions={"estimators": [estimator], "output": "loglik"},
        )
        out = dsdm("run", path, "--dry-run")[1]
        (line,) = [line for line in out.splitlines() if line.startswith("directions ")]
        return line

    write_data(tmp_path)
    assert tokens_of("metagradient") != tokens_of("gradient")
