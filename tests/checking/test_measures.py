import numpy as np
import pytest

from dsdm.checking.measures import (
    agreement,
    agreement_of_proxies,
    combined_scores,
    confounds_of,
    mean_target_slopes,
    mixed,
    share_between,
    standardized_difference,
)
from dsdm.evaluation.correlations import spearman, spearman_brown
from tests.checking.test_sample import sample

SAMPLES = [sample(), sample()]
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=60)


def test_what_selects_is_the_mean_over_proxies() -> None:
    found = combined_scores(SAMPLES)
    for name in ("mix", "file"):
        expected = (SAMPLES[0].scores[name] + SAMPLES[1].scores[name]) / 2
        np.testing.assert_allclose(found[name], expected)


def test_proxies_are_compared_on_the_mix_and_on_each_target() -> None:
    mix, target = agreement_of_proxies(SAMPLES)
    assert (mix.name, target.name, mix.pairs) == ("mix", "file", 1)
    assert mix.correlation == spearman(SAMPLES[0].scores["mix"], SAMPLES[1].scores["mix"])
    assert agreement_of_proxies(SAMPLES[:1])[0].correlation is None


def test_target_slopes_are_means_over_examples_and_proxies() -> None:
    (found,) = mean_target_slopes(SAMPLES, seed=0).values()
    assert found.mean == pytest.approx(np.mean([one.tune["file"] for one in SAMPLES]))
    assert found.low < found.mean < found.high


def test_confounds_are_told_apart() -> None:
    lengths = np.arange(20) + 5
    one = sample(scores=lengths.astype(float))
    seen = [np.arange(20) >= 10]
    found = confounds_of([one], seen, lengths, np.repeat([0, 1], 10))
    assert found.length == pytest.approx(1)
    assert found.gradient_norm == spearman(one.scores["mix"], one.norms)
    assert found.num_sources == 2
    assert found.between_sources == pytest.approx(25 / (20**2 - 1) * 12)
    assert found.seen == pytest.approx(10 / np.std(lengths))


def test_rows_of_one_length_say_nothing_of_length() -> None:
    found = confounds_of(SAMPLES, [np.ones(20, bool)] * 2, np.full(20, 9), np.zeros(20, int))
    assert (found.length, found.seen) == (None, None)


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
