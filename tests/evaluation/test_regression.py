"""Regression datamodels on losses whose truth is known."""

import numpy as np
import pytest

from dsdm.evaluation.regression import group_inclusion, regression_datamodel

PENALTIES = ["ridge", "lasso"]


def world(noise: float, num_subsets: int = 200):
    rng = np.random.default_rng(0)
    utilities = np.array([2.0, 0.0, -1.0, 0.5, 0.0, 1.0, 0.0, -0.5])
    inclusion = rng.random((num_subsets, 8)) * np.geomspace(0.2, 1.0, 8)
    losses = 4 - inclusion @ utilities + noise * rng.normal(size=num_subsets)
    return inclusion, losses, utilities


@pytest.mark.parametrize("penalty", PENALTIES)
def test_true_utilities_are_found_where_there_is_no_noise(penalty):
    inclusion, losses, utilities = world(0.0)
    found = regression_datamodel(inclusion, losses, penalty)
    assert found == pytest.approx(utilities, abs=0.03)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_they_are_nearly_found_in_noise(penalty):
    inclusion, losses, utilities = world(0.1)
    found = regression_datamodel(inclusion, losses, penalty)
    assert np.corrcoef(found, utilities)[0, 1] > 0.95


def test_losses_of_noise_alone_give_little():
    inclusion, _, _ = world(0.0)
    losses = np.random.default_rng(1).normal(size=200)
    plain = np.linalg.lstsq(inclusion - inclusion.mean(0), -(losses - losses.mean()))[0]
    ridge, lasso = (regression_datamodel(inclusion, losses, p) for p in PENALTIES)
    assert np.abs(ridge).max() < 0.5 * np.abs(plain).max()
    assert np.abs(lasso).max() < 0.5 * np.abs(plain).max()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_groups_that_never_vary_and_losses_that_never_do_have_no_utility(penalty):
    inclusion, losses, _ = world(0.0)
    inclusion[:, 3] = 0.5
    assert regression_datamodel(inclusion, losses, penalty)[3] == 0
    assert not regression_datamodel(inclusion, np.full(200, 1.5), penalty).any()


def test_a_few_subsets_are_too_few():
    with pytest.raises(ValueError, match="5 subsets or more, got 4"):
        regression_datamodel(np.ones((4, 2)), np.ones(4))


def test_groups_are_included_by_their_tokens():
    inclusion = np.array([[True, False, True, True], [False, False, False, True]])
    found = group_inclusion(inclusion, np.array([0, 0, 2, 2]), np.array([1, 3, 5, 5]))
    assert found.tolist() == [[0.25, 0.0, 1.0], [0.0, 0.0, 0.5]]
