"""What is estimated beside the directions, what it takes, and what a file keeps of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dsdm.data.batches import Rows
from dsdm.datamodel import score as scoring_examples
from dsdm.datamodel.calibrate import SHRINKS
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.config import MIX, ScoresConfig
from dsdm.datamodel.estimate import (
    Estimated,
    estimate,
    estimate_along_training,
    load_estimated,
    save_estimated,
)
from dsdm.datamodel.estimators import ESTIMATORS, Workload
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.datamodel.score import needed_targets, score_examples
from dsdm.datamodel.scoring import exact_scores
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.model import flops_per_token
from tests.conftest import ListRows, learner_of, random_rows, tiny_model

MODEL = tiny_model()
LEARNER = learner_of(MODEL, "loglik")
POOL = random_rows(30, seed=1)
CALIBRATED = 12
SETTINGS = {"trak": TrakConfig(projection=2, curvature_rows=30)}


def estimated_for(
    targets: dict[str, Rows], method: str = "gradient", mode: str = "backward", **scores: object
) -> Estimated:
    inputs = EstimatorInputs(LEARNER, targets, POOL, fingerprint="p")
    config = ScoresConfig(mode=mode, calibration_rows=CALIBRATED, **scores)
    return estimate(inputs, method, SETTINGS.get(method), config)


def test_what_is_saved_is_what_is_loaded_whatever_targets_are_called(tmp_path: Path) -> None:
    names = ["file", "rows", "allow_pickle", "args", "scores.file", "qa.mix"]
    made = estimated_for({name: random_rows(3, seed=i) for i, name in enumerate(names)})
    save_estimated(made, tmp_path)
    found = load_estimated(tmp_path, [MIX, *names, "none"])
    assert set(found.directions) == {MIX, *names}
    for name, direction in found.directions.items():
        assert (direction.estimator, direction.target, direction.model) == ("gradient", name, "p")
        for parameter, tensor in made.directions[name].tensors.items():
            assert torch.equal(direction.tensors[parameter], tensor)
    assert found.calibration == made.calibration
    indices = found.calibration_examples
    assert len(set(indices)) == CALIBRATED
    for name in names:
        exact = exact_scores(LEARNER, made.directions[name], POOL)
        np.testing.assert_allclose(found.exact[name], exact[indices], rtol=1e-6)
        assert found.exact[name].std() == pytest.approx(1)
    assert exact_scores(LEARNER, made.directions[MIX], POOL)[indices].std() == pytest.approx(1)


def test_scores_take_the_step_and_precision_that_were_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = estimated_for({"a": random_rows(5)}, mode="forward")
    (step,) = made.calibration.steps.values()
    assert isinstance(step, ForwardStep)
    seen = []

    def score(learner, direction, examples, size, advance):
        seen.append((learner.precision, size))
        return np.zeros(len(examples.lengths))

    monkeypatch.setattr(scoring_examples, "score_forward", score)
    learner = learner_of(MODEL, "loglik", precision="auto")
    columns, _ = score_examples(
        POOL, [lambda: (learner, {"gradient": made})], {"a": 1.0}, ScoresConfig(mode="forward")
    )
    assert list(columns) == [ScoreColumn("gradient", 0, MIX)]
    assert seen == [(step.precision, step.step)]


def test_the_mix_is_the_weighted_sum_of_targets_at_unit_spread() -> None:
    targets, weights = (
        {"a": random_rows(5, seed=3), "b": random_rows(4, seed=4)},
        {"a": 1.0, "b": 0.5},
    )
    inputs = EstimatorInputs(LEARNER, targets, POOL, weights)
    config = ScoresConfig(calibration_rows=CALIBRATED, per_target=True, per_example=1)
    made = estimate(inputs, "gradient", scores=config)
    asked = needed_targets(list(targets), config)
    assert asked == ["a", "b", "a[0]", "b[0]"]
    columns, _ = score_examples(POOL, [lambda: (LEARNER, {"gradient": made})], weights, config)
    single = [column for column in columns if column.is_example]
    assert [column.target for column in single] == ["a[0]", "b[0]"]
    expected = exact_scores(LEARNER, made.directions[MIX], POOL)
    np.testing.assert_allclose(columns[ScoreColumn("gradient", 0)], expected, rtol=1e-5, atol=1e-6)


def passes_over(rows: ListRows, indices: np.ndarray) -> float:
    """FLOPs of one forward pass over some rows."""
    lengths = rows.lengths[indices]
    return float(lengths.sum()) * flops_per_token(MODEL, int(lengths.max()))


@pytest.mark.parametrize("method", ["gradient", "trak"])
@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_flops_are_of_the_tokens_that_are_read(method: str, mode: str) -> None:
    # Targets' rows are longer than the pool's.
    targets = {"a": random_rows(9, longest=15, seed=3), "b": random_rows(5, longest=15, seed=4)}
    made = estimated_for(targets, method, mode)
    passes_of_tokens = 3 * sum(float(rows.lengths.sum()) for rows in targets.values())
    products = 0.0
    if method == "trak":
        sample = float(POOL.lengths.sum())
        passes_of_tokens += 2 * sample
        workload = Workload(moved_layers(MODEL, embeddings=True), len(POOL.lengths), sample)
        products = ESTIMATORS["trak"].cost(SETTINGS["trak"], workload).flops
    longest = max(rows.lengths.max() for rows in targets.values())
    calibrated = passes_over(POOL, made.calibration_examples)
    read = passes_of_tokens * flops_per_token(MODEL, int(longest))
    passes = (made.flops - read - products) / calibrated
    # Four passes for each exact slope; the mix's step takes one more, and two for each that is
    # tried.
    expected = 8 if mode == "backward" else 8 + 4 + 2 * len(SHRINKS)
    assert passes == pytest.approx(expected)


def test_an_estimator_is_called_for_what_it_needs() -> None:
    inputs = EstimatorInputs(LEARNER, {"a": random_rows(3)}, POOL)
    with pytest.raises(ValueError, match="estimated along a training"):
        estimate(inputs, "metagradient")
    with pytest.raises(ValueError, match="estimator 'none' is not known: known are ekfac"):
        estimate(inputs, "none")
    with pytest.raises(AssertionError, match="of a training"):
        estimate_along_training([inputs], "metagradient")
