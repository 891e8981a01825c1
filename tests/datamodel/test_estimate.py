"""What `estimate_directions` writes beside the directions, and what it says that it took."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsdm.artifacts import Draft
from dsdm.data.batches import Rows
from dsdm.datamodel import score_shard
from dsdm.datamodel.calibration import (
    CALIBRATION,
    load_calibration,
    load_exact,
)
from dsdm.datamodel.config import METAGRADIENT, TRAITS, DirectionsConfig, ScoresConfig
from dsdm.datamodel.curvature_costs import curvature_flops
from dsdm.datamodel.directions import load_direction
from dsdm.datamodel.estimate import Question, direction_path, estimate_directions
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.layers import moved_layers
from dsdm.datamodel.scoring import SHRINKS, exact_scores
from dsdm.lm.model import flops_per_token
from tests.conftest import ListRows, random_rows, tiny_model

MODEL = tiny_model()
POOL = random_rows(30, seed=1)
CALIBRATED = 12
CONFIG = DirectionsConfig(output="loglik", projection=2, curvature_rows=30, batch_tokens=50)


def estimate(
    folder: Path, targets: dict[str, Rows], method: str = "gradient", scoring: str = "backward"
) -> Draft:
    """The written draft."""
    question = Question(MODEL, "p", targets, dict.fromkeys(targets, 1.0), POOL)
    scores = ScoresConfig(
        mode=scoring, calibration_rows=CALIBRATED, precision="float32", batch_tokens=50
    )
    draft = Draft(folder)
    estimate_directions(question, method, CONFIG, scores, draft, lambda tokens: None)
    return draft


def test_targets_may_have_any_name(tmp_path: Path) -> None:
    names = ["file", "rows", "allow_pickle", "args", "scores.file"]
    targets = {name: random_rows(3, seed=i) for i, name in enumerate(names)}
    estimate(tmp_path, targets)
    with np.load(tmp_path / "calibration.npz") as arrays:
        indices = arrays["rows"]
    assert len(set(indices)) == CALIBRATED
    found = load_exact(tmp_path, names)
    for name in names:
        direction = load_direction(direction_path(tmp_path, name))
        exact = exact_scores(MODEL, direction, POOL, "loglik", 50)
        np.testing.assert_allclose(found[name], exact[indices], rtol=1e-6)


def test_scores_of_earlier_runs_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "calibration.npz", rows=np.arange(3), words=np.arange(3.0))
    assert load_exact(tmp_path, ["words"])["words"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("noted", "expected"), [(True, "float32"), (False, "auto")])
def test_a_shard_is_scored_in_the_precision_that_was_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: bool, expected: str
) -> None:
    folder = tmp_path / "gradient" / "0"
    folder.mkdir(parents=True)
    estimate(folder, {"a": random_rows(5)}, scoring="forward")
    (step,) = load_calibration(folder).steps.values()
    if not noted:
        # As runs were before dsdm noted it.
        found = json.loads((folder / CALIBRATION).read_text("utf-8"))
        del found["steps"]["mix"]["precision"]
        (folder / CALIBRATION).write_text(json.dumps(found), "utf-8")
    seen = []

    def score(*arguments: object) -> np.ndarray:
        seen.append(arguments[4:6])
        return np.zeros(len(POOL.lengths))

    monkeypatch.setattr(score_shard, "score_forward", score)
    score_shard.score_shard(
        POOL,
        score_shard.Estimated(tmp_path, ["gradient"], {"a": 1.0}),
        [score_shard.Point(lambda: MODEL)],
        "loglik",
        ScoresConfig(mode="forward", precision="auto"),
        tmp_path,
        lambda rows: None,
    )
    ((used, settings),) = seen
    assert (used, settings.precision) == (step.step, expected)


def passes_over(rows: ListRows, indices: np.ndarray) -> float:
    """FLOPs of one forward pass over some rows."""
    lengths = rows.lengths[indices]
    return float(lengths.sum()) * flops_per_token(MODEL, int(lengths.max()))


@pytest.mark.parametrize("method", ["gradient", "trak"])
@pytest.mark.parametrize("scoring", ["backward", "forward"])
def test_flops_are_of_the_tokens_that_are_read(tmp_path: Path, method: str, scoring: str) -> None:
    # Targets' rows are longer than the pool's.
    targets = {"a": random_rows(9, longest=15, seed=3), "b": random_rows(5, longest=15, seed=4)}
    found = estimate(tmp_path, targets, method, scoring).flops
    passes_of_tokens = 3 * sum(float(rows.lengths.sum()) for rows in targets.values())
    products = 0.0
    if method == "trak":
        sample = float(POOL.lengths.sum())
        passes_of_tokens += 2 * sample
        layers = moved_layers(MODEL, embeddings=True)
        rows = len(POOL.lengths)
        products = curvature_flops("trak", layers, CONFIG, tokens=sample, rows=rows)
    longest = max(rows.lengths.max() for rows in targets.values())
    with np.load(tmp_path / "calibration.npz") as arrays:
        calibrated = passes_over(POOL, arrays["rows"])
    read = passes_of_tokens * flops_per_token(MODEL, int(longest))
    passes = (found - read - products) / calibrated
    # Four passes for each exact slope; the mix's step takes one more, and two for each that is
    # tried.
    expected = 8 if scoring == "backward" else 8 + 4 + 2 * len(SHRINKS)
    assert passes == pytest.approx(expected)


def test_the_command_line_knows_every_estimator() -> None:
    assert set(TRAITS) == {*ESTIMATORS, METAGRADIENT}
