"""The same code on a GPU: `pytest -m gpu`, where there is one."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dsdm.data.batches import collate
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.gradients import mean_gradient
from dsdm.datamodel.scoring import exact_scores, score_backward, score_forward
from dsdm.experiment import Experiment, load_experiment
from dsdm.learners.lm_layers import linear_layers
from dsdm.lm.outputs import summed_loglik, token_outputs
from dsdm.stages import run_experiment
from tests.conftest import learner_of, random_rows, tiny_model
from tests.tiny_runs import write_data, write_experiment

pytestmark = pytest.mark.gpu

SINGLE = {"precision": "float32"}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_data(tmp_path)
    changes = {"directions": {"estimators": ["ekfac", "trak", "gradient"], **SINGLE}}
    path = write_experiment(tmp_path, **changes, device="cpu")
    return load_experiment(path)


def test_outputs_are_those_of_the_cpu() -> None:
    batch = collate(random_rows(5, answer_start=2).rows)
    for output in ("loglik", "margin"):
        here, there = (
            token_outputs(tiny_model().to(device), batch.to(torch.device(device)), output)
            for device in ("cpu", "cuda")
        )
        torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-12)
    model = tiny_model().to("cuda")
    total = summed_loglik(model, batch.to(torch.device("cuda")))
    assert total.item() == pytest.approx(token_outputs(tiny_model(), batch, "loglik").sum().item())


def test_scorers_agree_on_the_gpu() -> None:
    model, rows = tiny_model().to("cuda").float(), random_rows(9)
    names = [name for layer in linear_layers(model) for name in layer.parameter_names]
    learner = learner_of(model, "loglik")
    gradient = mean_gradient(learner, random_rows(4, seed=5), names)
    direction = Direction(gradient, "gradient", "mix", "p")
    exact = exact_scores(learner, direction, rows)
    backward = score_backward(learner, [direction], rows)[:, 0]
    forward = score_forward(learner, direction, rows, 1e-2)
    np.testing.assert_allclose(backward, exact, rtol=1e-3, atol=1e-5 * np.abs(exact).max())
    assert np.corrcoef(forward, exact)[0, 1] > 0.999


def test_scores_of_the_same_proxies_are_those_of_the_cpu(
    experiment: Experiment, tmp_path: Path
) -> None:
    run_experiment(experiment, until="proxies")
    shutil.copytree(experiment.run, tmp_path / "gpu")
    changes = {"run": str(tmp_path / "gpu"), "device": "cuda"}
    tables = [
        pq.read_table(run_experiment(one, until="scores").folder / "scores/all/scores.parquet")
        for one in (experiment, msgspec.structs.replace(experiment, **changes))
    ]
    for method in experiment.directions.estimators:
        here, there = (table[method].to_numpy() for table in tables)
        assert np.corrcoef(here, there)[0, 1] > 0.999, method


def test_a_whole_run_selects_something(experiment: Experiment, tmp_path: Path) -> None:
    changes = {"run": str(tmp_path / "gpu"), "device": "cuda"}
    run = run_experiment(msgspec.structs.replace(experiment, **changes))
    assert (run.folder / "dataset").is_dir()
