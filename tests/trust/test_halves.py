import numpy as np
import pytest
import torch
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.layers import moved_layers

from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.estimators import ESTIMATORS, Problem
from dsdm.datamodel.scoring import exact_scores
from dsdm.errors import DataError
from dsdm.trust.halves import agreement_of_halves, half_directions, split_halves, whole_target
from tests.conftest import random_rows, tiny_model

TARGETS = {"a": random_rows(7, seed=1), "b": random_rows(4, seed=2)}
SAMPLE, POOL = random_rows(12, seed=3), random_rows(6, seed=4)
CONFIG = DirectionsConfig(batch_tokens=64)


def test_halves_share_nothing_and_are_everything() -> None:
    first, second = split_halves(TARGETS["a"], seed=0)
    assert (len(first.indices), len(second.indices)) == (3, 4)
    assert sorted([*first.indices, *second.indices]) == list(range(7))


def test_one_example_has_no_halves() -> None:
    with pytest.raises(DataError, match="fit part has 1 example"):
        split_halves(random_rows(1), seed=0)


@pytest.mark.parametrize("method", ["ekfac", "gradient"])
def test_halves_add_up_to_the_scores_for_the_whole_target(method: str) -> None:
    model = tiny_model()
    halves = {name: split_halves(rows, seed=0) for name, rows in TARGETS.items()}
    found = half_directions(model, method, CONFIG, halves, SAMPLE)
    first, second = (
        {name: exact_scores(model, pair[i], POOL, "margin", 64) for name, pair in found.items()}
        for i in (0, 1)
    )
    counts = {name: [len(half.indices) for half in pair] for name, pair in halves.items()}
    problem = Problem(model, moved_layers(model, embeddings=True), TARGETS, SAMPLE)
    for name, tensors in ESTIMATORS[method](problem, CONFIG).items():
        whole = exact_scores(model, Direction(tensors, method, name, ""), POOL, "margin", 64)
        np.testing.assert_allclose(whole_target(first, second, counts)[name], whole, rtol=1e-6)


def test_halves_are_found_under_one_curvature() -> None:
    model = tiny_model()
    rows = TARGETS["a"]
    found = half_directions(model, "ekfac", CONFIG, {"a": (rows, rows)}, SAMPLE)["a"]
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
