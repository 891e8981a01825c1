"""Intervals against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from dsdm.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_means,
    paired_t_interval,
    share_interval,
)


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


def test_wilsons_interval():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for found, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = share_interval(found, total)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
