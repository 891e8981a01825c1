"""Rank correlations against scipy."""

import numpy as np
import pytest
from scipy import stats

from dsdm.evaluation.agreement import mean_agreements, rank_correlations, ranks


def test_correlations_agree_with_scipy_where_values_tie():
    columns = np.random.default_rng(0).integers(0, 6, size=(3, 50)).astype(float)
    expected = stats.spearmanr(columns, axis=1).statistic
    assert rank_correlations(list(columns)) == pytest.approx(expected)


def test_ties_share_their_mean_rank():
    values = np.array([5.0, 1.0, 5.0, 2.0])
    assert ranks(values).tolist() == stats.rankdata(values).tolist()


def test_a_constant_column_correlates_with_nothing():
    correlations = rank_correlations([np.arange(4.0), np.ones(4)])
    assert correlations[0, 0] == pytest.approx(1)
    assert np.isnan(correlations[0, 1])


def test_proxies_are_compared_on_the_mix_and_targets_within_a_proxy():
    names = ["m", "m.0.mix", "m.1.mix", "m.0.a", "m.0.b", "m.1.a"]
    correlations = np.full((6, 6), 0.9)
    correlations[1, 2] = 0.5
    correlations[3, 4] = 0.1
    found = {line.between: line for line in mean_agreements(names, correlations, "all")}
    assert (found["proxies"].num_pairs, found["proxies"].mean) == (1, 0.5)
    assert (found["targets"].num_pairs, found["targets"].mean) == (1, 0.1)


def test_without_the_mix_proxies_are_compared_on_each_target():
    names = ["m.0.a", "m.0.b", "m.1.a", "m.1.b", "other.1.b"]
    found = {line.between: line for line in mean_agreements(names, np.ones((5, 5)), "all")}
    assert found["proxies"].num_pairs == found["targets"].num_pairs == 2
