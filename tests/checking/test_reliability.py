import numpy as np
import pytest

from dsdm.checking.reliability import (
    agreement,
    mixed,
    share_between,
    standardized_difference,
)
from dsdm.evaluation.correlations import spearman, spearman_brown

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=60)


def test_agreement_is_the_mean_over_all_pairs() -> None:
    columns = [VALUES, VALUES + RNG.normal(size=60), RNG.normal(size=60)]
    pairs = [spearman(columns[a], columns[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
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
