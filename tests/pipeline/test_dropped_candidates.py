"""Candidates that share text with a target are in no arm, whatever ranks them."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsdm.reporting.view import selected_candidates
from dsdm.stages import Run, run_experiment
from dsdm.stages.making.compare import training_order
from dsdm.stages.making.selection import run_scores
from tests.toy import toy_experiment, write_lines, write_world

ARMS = ("top", "bottom", "repeated", "random", "source-matched", "best-source")
PRECISE = {"precision": "float32"}


@pytest.fixture(scope="module", params=[None, 0.9], ids=["plain", "near-duplicates"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose pool has some of its target's own texts, scored; no model is compared yet."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, num_documents=80, num_targets=30)
    lines = (folder / "target.jsonl").read_text(encoding="utf-8").splitlines()
    targets = [json.loads(line) for line in lines]
    copies = [
        {"id": f"copy{i}", "source": "leaked", "text": f"{t['context']} {t['continuation']}"}
        for i, t in enumerate(targets[:10])
    ]
    write_lines(folder / "pool" / "9.jsonl", copies)
    experiment = toy_experiment(
        folder,
        drop_overlap=True,
        proxies={"count": 1, "train": {"batch_tokens": 512, **PRECISE}},
        directions={"estimators": ["gradient"], **PRECISE},
        scores={**PRECISE, "calibration_rows": 20},
        selection={
            "fraction": 0.4,
            "random_share": 0.1,
            "temperature": 3.0,
            "near_duplicates": request.param,
        },
        compare={"arms": ARMS, "epochs": 2},
    )
    return run_experiment(experiment, until="selection")


def test_copies_of_the_target_are_dropped(run: Run) -> None:
    scores = run_scores(run, "gradient")
    leaked = scores.sources == scores.source_names.index("leaked")
    assert set(np.flatnonzero(leaked)) <= set(run.dropped)
    kept = np.delete(scores.values, run.dropped)
    assert scores.values[run.dropped].max() < kept.min()


def test_none_is_selected(run: Run) -> None:
    chosen = selected_candidates(run.folder / "selection")
    assert len(chosen) > 10
    assert not np.isin(chosen, run.dropped).any()


@pytest.mark.parametrize("name", ARMS)
def test_none_trains_a_model_that_is_compared(run: Run, name: str) -> None:
    (arm,) = (arm for arm in run.experiment.compared_arms if arm.name == name)
    order = training_order(run, arm, 1)
    assert len(order) > 10
    assert not np.isin(run.examples.candidate_of_row[order], run.dropped).any()


def test_the_subset_that_trained_the_proxy_has_none(run: Run) -> None:
    subset = np.load(Path(run.folder, "proxies", "0", "subset.npy"))
    assert not np.isin(run.examples.candidate_of_row[subset], run.dropped).any()
