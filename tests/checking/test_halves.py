import numpy as np
import pytest
import torch

from dsdm.checking.halves import half_directions, split_halves
from dsdm.checking.measures import agreement_of_halves, whole_target
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.scoring import exact_scores
from dsdm.errors import DataError
from tests.conftest import learner_of, random_rows, tiny_model

TARGETS = {"a": random_rows(7, seed=1), "b": random_rows(4, seed=2)}
SAMPLE, POOL = random_rows(12, seed=3), random_rows(6, seed=4)


def test_halves_share_nothing_and_are_everything() -> None:
    first, second = split_halves(TARGETS["a"], seed=0)
    assert (len(first.indices), len(second.indices)) == (3, 4)
    assert sorted([*first.indices, *second.indices]) == list(range(7))


def test_one_example_has_no_halves() -> None:
    with pytest.raises(DataError, match="fit part has 1 example"):
        split_halves(random_rows(1), seed=0)


@pytest.mark.parametrize("method", ["ekfac", "gradient"])
def test_halves_add_up_to_the_scores_for_the_whole_target(method: str) -> None:
    learner, estimator = learner_of(tiny_model()), ESTIMATORS[method]
    halves = {name: split_halves(rows, seed=0) for name, rows in TARGETS.items()}
    inputs = EstimatorInputs(learner, TARGETS, POOL, sample=SAMPLE)
    found = half_directions(inputs, method, estimator.settings(), halves)
    first, second = (
        {name: exact_scores(learner, pair[i], POOL) for name, pair in found.items()} for i in (0, 1)
    )
    counts = {name: [len(half.indices) for half in pair] for name, pair in halves.items()}
    for name, tensors in estimator.estimate(inputs, estimator.settings()).items():
        whole = exact_scores(learner, Direction(tensors, method, name), POOL)
        np.testing.assert_allclose(whole_target(first, second, counts)[name], whole, rtol=1e-6)


def test_halves_are_found_under_one_curvature() -> None:
    rows, settings = TARGETS["a"], ESTIMATORS["ekfac"].settings()
    inputs = EstimatorInputs(learner_of(tiny_model()), TARGETS, POOL, sample=SAMPLE)
    found = half_directions(inputs, "ekfac", settings, {"a": (rows, rows)})["a"]
    for name, tensor in found[0].tensors.items():
        torch.testing.assert_close(tensor, found[1].tensors[name])


def test_equal_halves_agree_and_unrelated_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    first = {"a": rng.normal(size=500), "b": rng.normal(size=500)}
    second = {"a": 3 * first["a"], "b": rng.normal(size=500)}
    mix, a, b = agreement_of_halves(first, second, {"a": 1.0, "b": 1.0})
    assert [one.name for one in (mix, a, b)] == ["mix", "a", "b"]
    assert a.reliability == pytest.approx(1)
    assert b.reliability is not None
    assert b.reliability < 0.2
    assert mix.correlation == pytest.approx(0.5, abs=0.1)
