import numpy as np
import pytest

from dsdm.trust.reliability import (
    agreement,
    mixed,
    share_between,
    spearman,
    spearman_brown,
    spearman_interval,
    standardized_difference,
)

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=60)


def slow_spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of ranks that are counted one by one."""
    ranked = [
        [(column < value).sum() + ((column == value).sum() + 1) / 2 for value in column]
        for column in (first, second)
    ]
    return float(np.corrcoef(*ranked)[0, 1])


def test_spearman_is_the_correlation_of_the_ranks() -> None:
    other = np.round(VALUES + RNG.normal(size=60), 1)
    assert spearman(VALUES, other) == pytest.approx(slow_spearman(VALUES, other))


def test_a_constant_column_has_no_correlation() -> None:
    assert spearman(VALUES, np.ones(60)) is None
    assert spearman_interval(VALUES, np.ones(60), seed=0) is None


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


def test_agreement_is_the_mean_over_all_pairs() -> None:
    columns = [VALUES, VALUES + RNG.normal(size=60), RNG.normal(size=60)]
    pairs = [slow_spearman(columns[a], columns[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    found = agreement("mix", columns, 3)
    assert (found.name, found.pairs) == ("mix", 3)
    assert found.correlation == pytest.approx(np.mean(pairs))
    assert found.reliability == pytest.approx(spearman_brown(float(np.mean(pairs)), 3))


def test_the_agreement_of_one_column_is_not_known() -> None:
    found = agreement("mix", [VALUES], 1)
    assert (found.pairs, found.correlation, found.reliability) == (0, None, None)


def test_a_mix_is_of_columns_at_unit_spread() -> None:
    other = 100 * RNG.normal(size=60)
    columns = {"a": VALUES, "b": other, "constant": np.ones(60)}
    weights = {"a": 1.0, "b": 2.0, "constant": 5.0}
    expected = [x / VALUES.std() + 2 * y / other.std() for x, y in zip(VALUES, other, strict=True)]
    np.testing.assert_allclose(mixed(columns, weights), expected)


def test_the_share_between_sources_is_that_of_an_analysis_of_variance() -> None:
    sources = RNG.integers(0, 4, 60)
    values = VALUES + sources
    between = sum(
        (sources == s).sum() * (values[sources == s].mean() - values.mean()) ** 2 for s in range(4)
    )
    total = sum((value - values.mean()) ** 2 for value in values)
    assert share_between(values, sources) == pytest.approx(between / total)


def test_the_share_between_sources_is_0_for_one_and_1_where_they_are_all() -> None:
    sources = np.repeat([5, 9], 30)
    assert share_between(VALUES, np.zeros(60, np.int64)) == pytest.approx(0, abs=1e-12)
    assert share_between(sources.astype(float), sources) == pytest.approx(1)
    assert share_between(np.ones(60), sources) is None


def test_a_difference_is_in_standard_deviations() -> None:
    chosen = np.arange(60) < 20
    expected = (VALUES[:20].mean() - VALUES[20:].mean()) / VALUES.std()
    assert standardized_difference(VALUES, chosen) == pytest.approx(expected)
    assert standardized_difference(VALUES, np.ones(60, bool)) is None
    assert standardized_difference(np.ones(60), chosen) is None


def test_the_interval_is_that_of_resamples_drawn_one_by_one() -> None:
    rng = np.random.default_rng(2)
    first = np.round(rng.normal(size=24), 1)
    second = np.round(first + rng.normal(size=24), 1)
    resamples = [rng.integers(24, size=24) for _ in range(1000)]
    slow = np.quantile([slow_spearman(first[i], second[i]) for i in resamples], [0.025, 0.975])
    found = spearman_interval(first, second, seed=0)
    assert found is not None
    assert found.mean == pytest.approx(slow_spearman(first, second))
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
