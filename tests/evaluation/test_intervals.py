"""Intervals against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from dsdm.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_means,
    paired_t_interval,
    t_distribution,
    t_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 99])
def test_t_agrees_with_scipy(degrees):
    for probability in (0.5, 0.75, 0.95, 0.975, 0.9995):
        expected = stats.t.ppf(probability, degrees)
        assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert t_distribution(1.7, degrees) == pytest.approx(stats.t.cdf(1.7, degrees), rel=1e-12)


def test_the_paired_interval_is_scipys():
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    interval = paired_t_interval(first - second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.mean == pytest.approx((first - second).mean())


def test_two_seeds_by_hand():
    interval = paired_t_interval(np.array([1.0, 3.0]))
    # mean 2, standard error 1, t(0.975, 1) = tan(0.475 pi)
    assert interval.high - 2 == pytest.approx(np.tan(0.475 * np.pi))
    assert not interval.excludes_zero


def test_one_pair_has_no_t_interval():
    with pytest.raises(ValueError, match="two pairs"):
        paired_t_interval(np.array([1.0]))


def test_the_bootstrap_is_near_the_normal_interval_of_many_examples():
    values = np.random.default_rng(1).exponential(size=3000)
    interval = bootstrap_interval(values.mean(), bootstrap_means(values, seed=0))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert interval.excludes_zero


def test_the_bootstrap_follows_from_its_seed():
    values = np.arange(10.0)
    assert np.array_equal(bootstrap_means(values, seed=3), bootstrap_means(values, seed=3))
    assert not np.array_equal(bootstrap_means(values, seed=3), bootstrap_means(values, seed=4))


def test_resampling_in_parts_gives_as_many_means():
    assert bootstrap_means(np.ones(300_000), seed=0, replicates=7) == pytest.approx(np.ones(7))
