"""A pool in which it is known what helps: a tenth is in the target's language."""

import numpy as np
import pytest

from dsdm.baselines.random import random_scores
from dsdm.reporting.measured import load_losses
from dsdm.reporting.view import selected_candidates
from dsdm.selection import Scores, select
from dsdm.stages import Run, run_experiment
from dsdm.stages.making.selection import run_scores
from tests.toy import NUM_LANGUAGES, PLANTED, toy_experiment, write_world

METHODS = ("ekfac", "trak", "gradient")
PRECISE = {"precision": "float32"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, num_documents=600, num_targets=150)
    train = {"lr": 0.01, "batch_tokens": 512, **PRECISE}
    experiment = toy_experiment(
        folder,
        proxies={"count": 1, "fraction": 0.5, "epochs": 6, "train": train},
        directions={
            "estimators": METHODS,
            "output": "margin",
            "ekfac": {"curvature_rows": 512},
            "trak": {"curvature_rows": 512, "projection": 8},
            **PRECISE,
        },
        scores=PRECISE,
        compare={"arms": ["ekfac", "random", "ekfac-bottom"], "epochs": 6, "train": train},
    )
    return run_experiment(experiment)


def planted_share(scores: Scores, run: Run, *, bottom: bool = False) -> float:
    chosen = select(scores, run.experiment.selection, bottom=bottom)
    planted = scores.source_names.index(f"language{PLANTED}")
    return float((scores.sources[chosen] == planted).mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_top_tenth_is_most_of_the_planted_tenth(run: Run, method: str) -> None:
    assert planted_share(run_scores(run, method), run) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_the_bottom_tenth_has_almost_none_of_it(run: Run, method: str) -> None:
    assert planted_share(run_scores(run, method), run, bottom=True) < 0.02


def test_random_scores_find_no_more_than_there_is(run: Run) -> None:
    found = run_scores(run, "ekfac")
    shares = [
        planted_share(
            random_scores(found.num_tokens, found.sources, found.source_names, seed, ""), run
        )
        for seed in range(20)
    ]
    assert abs(np.mean(shares) - 1 / NUM_LANGUAGES) < 0.03
    assert max(shares) < 0.3


def test_the_selection_on_disk_is_the_top_tenth(run: Run) -> None:
    scores = run_scores(run, "ekfac")
    chosen = selected_candidates(run.folder / "selection")
    assert chosen.tolist() == select(scores, run.experiment.selection).tolist()
    assert scores.num_tokens[chosen].sum() <= 0.1 * scores.num_tokens.sum()


def test_what_was_selected_trains_better_models_than_random_and_random_than_the_bottom(
    run: Run,
) -> None:
    found = load_losses(run.folder, "report", run.compare, ["planted"])
    losses = {arm: seeds[0]["planted"].mean() for arm, seeds in found.items()}
    assert losses["ekfac"] < losses["random"] < losses["ekfac-bottom"]
