"""Rank correlations, their bootstrap and their reliability, against scipy and literal twins."""

import numpy as np
import pytest
from scipy import stats

from dsdm.evaluation.correlations import (
    rank_correlations,
    resample_counts,
    resampled_rank_correlations,
    spearman,
    spearman_brown,
    spearman_interval,
)

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=60)


def test_correlations_are_of_ranks_where_values_tie():
    columns = np.random.default_rng(0).integers(0, 6, size=(3, 50)).astype(float)
    expected = stats.spearmanr(columns, axis=1).statistic
    assert rank_correlations(list(columns)) == pytest.approx(expected)


def test_a_constant_column_correlates_with_nothing():
    correlations = rank_correlations([np.arange(4.0), np.ones(4)])
    assert correlations[0, 0] == pytest.approx(1)
    assert np.isnan(correlations[0, 1])
    assert spearman(VALUES, np.ones(60)) is None
    assert spearman_interval(VALUES, np.ones(60), seed=0) is None


@pytest.mark.parametrize("levels", [1000, 4])
def test_resampled_correlations_are_spearmans_of_the_resample(levels):
    rng = np.random.default_rng(0)
    first, second = rng.integers(levels, size=(2, 12)).astype(np.float64)
    counts = resample_counts(12, 30, seed=1)
    assert (counts.sum(axis=1) == 12).all()
    found = resampled_rank_correlations(first, second, counts)
    for value, count in zip(found, counts, strict=True):
        x, y = np.repeat(first, count), np.repeat(second, count)
        assert value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_the_first_sample_is_the_data_itself():
    assert resample_counts(5, 3, seed=0)[0].tolist() == [1] * 5


def test_a_sample_in_which_a_column_is_constant_has_no_correlation():
    counts = resample_counts(6, 5, seed=0)
    assert np.isnan(resampled_rank_correlations(np.ones(6), np.arange(6.0), counts)).all()


def test_the_reliability_of_a_mean_is_what_repeated_measurements_show() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200_000)

    def measured() -> np.ndarray:
        return truth + 1.5 * rng.normal(size=len(truth))

    single = float(np.corrcoef(measured(), measured())[0, 1])
    means = [np.mean([measured() for _ in range(3)], axis=0) for _ in range(2)]
    assert spearman_brown(single, 3) == pytest.approx(np.corrcoef(*means)[0, 1], abs=0.01)


def test_what_does_not_agree_is_not_reliable() -> None:
    assert spearman_brown(-0.4, 2) == 0
    assert spearman_brown(1.0, 5) == 1


def test_the_interval_is_that_of_resamples_drawn_one_by_one() -> None:
    rng = np.random.default_rng(2)
    first = np.round(rng.normal(size=24), 1)
    second = np.round(first + rng.normal(size=24), 1)
    resamples = [rng.integers(24, size=24) for _ in range(1000)]
    slow = np.quantile(
        [stats.spearmanr(first[i], second[i]).statistic for i in resamples], [0.025, 0.975]
    )
    found = spearman_interval(first, second, seed=0)
    assert found is not None
    assert found.mean == pytest.approx(stats.spearmanr(first, second).statistic)
    np.testing.assert_allclose([found.low, found.high], slow, atol=0.06)


def test_the_interval_covers_the_correlation_as_often_as_it_says() -> None:
    rng, truth, inside = np.random.default_rng(3), 0.7, 0
    for seed in range(40):
        first = rng.normal(size=24)
        second = truth * first + np.sqrt(1 - truth**2) * rng.normal(size=24)
        found = spearman_interval(first, second, seed)
        assert found is not None
        inside += found.low <= 0.68 <= found.high  # Spearman's for a Pearson's of 0.7
    assert inside >= 34


def test_the_same_seed_gives_the_same_interval() -> None:
    other = VALUES + RNG.normal(size=60)
    assert spearman_interval(VALUES, other, 1) == spearman_interval(VALUES, other, 1)
