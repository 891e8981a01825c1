"""Linear datamodeling scores against scipy, on simulated data, and on worlds with a known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.correlations import resample_counts
from dsdm.evaluation.lds import (
    CEILING,
    RANDOM,
    Retrained,
    lds_table,
    noise_ceiling,
    predicted_utilities,
    random_table,
)

NUM_CANDIDATES, NUM_SUBSETS = 60, 40


def simulated(noise: float, seeds: int = 2, seed: int = 0) -> tuple[Retrained, dict]:
    """Losses that fall with the true utilities of what was trained on; and those utilities."""
    rng = np.random.default_rng(seed)
    halves = np.stack(
        [rng.permutation(NUM_CANDIDATES) < NUM_CANDIDATES // 2 for _ in range(NUM_SUBSETS)]
    )
    truth = {name: rng.normal(size=NUM_CANDIDATES) for name in ("first", "second")}
    losses = {}
    for name, utilities in truth.items():
        signal = halves @ utilities
        signal = (signal - signal.mean()) / signal.std()
        losses[name] = 5 - signal[:, None] + noise * rng.normal(size=(NUM_SUBSETS, seeds))
    return Retrained(halves, np.full(NUM_CANDIDATES, 9), losses), truth


def random_scores(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=NUM_CANDIDATES) for name in ("first", "second")}


def literal_ranks(values) -> list[float]:
    """One more than the smaller ones, and half the other equal ones."""
    return [
        1
        + sum(other < value for other in values)
        + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def literal_spearman(first, second) -> float:
    return np.corrcoef(literal_ranks(first), literal_ranks(second))[0, 1]


def literal_lds(retrained: Retrained, scores, target: str, drawn) -> float:
    """Subset by subset, for those that are drawn."""
    predicted, actual = [], []
    for i in drawn:
        included = [k for k in range(NUM_CANDIDATES) if retrained.inclusion[i, k]]
        predicted.append(sum(scores[target][k] for k in included))
        actual.append(-np.mean(retrained.losses[target][i]))
    # Sums in another order must not part what is equal.
    return literal_spearman(np.round(predicted, 9), actual)


def test_what_is_constant_predicts_nothing():
    retrained, _ = simulated(1.0)
    constant = dict.fromkeys(("first", "second"), np.ones(NUM_CANDIDATES))
    table = lds_table(retrained, {"constant": constant}, replicates=5)
    assert not table.samples["constant", "first"].any()


def test_the_table_is_the_definition_resample_by_resample():
    retrained, truth = simulated(1.0)
    table = lds_table(retrained, {"true": truth, "noise": random_scores(5)}, seed=3, replicates=6)
    counts = resample_counts(40, 6, seed=3)
    for target in ("first", "second"):
        drawn = [np.repeat(np.arange(40), count) for count in counts]
        expected = [literal_lds(retrained, truth, target, one) for one in drawn]
        assert table.samples["true", target] == pytest.approx(expected)
    mean = np.mean([table.samples["true", t] for t in ("first", "second")], axis=0)
    assert table.samples["true", ALL_TARGETS] == pytest.approx(mean)


def test_intervals_are_percentiles_of_the_resamples():
    retrained, truth = simulated(1.0)
    table = lds_table(retrained, {"true": truth, "noise": random_scores(5)}, replicates=200)
    true, noise = (table.samples[name, "first"] for name in ("true", "noise"))
    found = table.interval("true", "first")
    assert found.mean == true[0]
    assert (found.low, found.high) == tuple(np.quantile(true[1:], [0.025, 0.975]))
    paired = table.difference("true", "noise", "first")
    assert paired.mean == pytest.approx(true[0] - noise[0])
    expected = np.quantile(true[1:] - noise[1:], [0.025, 0.975])
    assert (paired.low, paired.high) == pytest.approx(tuple(expected))


def test_estimators_that_agree_differ_by_less_than_each_is_uncertain():
    retrained, truth = simulated(1.0)
    rng = np.random.default_rng(9)
    nearly = {name: values + 0.05 * rng.normal(size=60) for name, values in truth.items()}
    table = lds_table(retrained, {"true": truth, "nearly": nearly}, replicates=500)
    alone, paired = table.interval("true"), table.difference("true", "nearly")
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_the_true_datamodel_is_at_the_ceiling_and_random_scores_at_zero():
    retrained, truth = simulated(0.7)
    table, random = (
        lds_table(retrained, {"true": truth}, replicates=500),
        random_table(retrained, draws=300),
    )
    ceiling, true = table.interval(CEILING), table.interval("true")
    assert true.mean == pytest.approx(ceiling.mean, abs=0.06)
    null = random.interval(RANDOM)
    assert null.mean == pytest.approx(0, abs=0.04)
    assert null.low < -0.1
    assert 0.1 < null.high < 0.6
    assert true.mean > 0.75
    assert table.methods == ("true", CEILING)
    assert table.targets == ("first", "second", ALL_TARGETS)


def test_the_range_of_random_scores_is_that_of_their_lds():
    retrained, _ = simulated(0.7)
    scores = np.random.default_rng(4).random((20, NUM_CANDIDATES))
    table = random_table(retrained, draws=20, seed=4)
    expected = [literal_lds(retrained, {"first": values}, "first", range(40)) for values in scores]
    assert table.samples[RANDOM, "first"][1:] == pytest.approx(expected)
    assert table.interval(RANDOM, "first").mean == pytest.approx(np.mean(expected))


def test_scores_of_the_wrong_sign_are_below_zero():
    retrained, truth = simulated(0.5)
    negated = {name: -values for name, values in truth.items()}
    table = lds_table(retrained, {"negated": negated}, replicates=50)
    assert table.interval("negated").high < -0.5


@pytest.mark.parametrize("num_seeds", [2, 3])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_the_ceiling_is_what_the_true_expectation_reaches(noise, num_seeds):
    rng = np.random.default_rng(int(10 * noise) + num_seeds)
    truth = rng.normal(size=20_000)
    seeds = truth + noise * rng.normal(size=(num_seeds, 20_000))
    pairs = itertools.combinations(seeds, 2)
    # Exact for Pearson's correlation, near for Spearman's.
    for correlation, tolerance in ((stats.pearsonr, 0.015), (stats.spearmanr, 0.025)):
        pairs = [correlation(x, y).statistic for x, y in itertools.combinations(seeds, 2)]
        ceiling = noise_ceiling(np.array([np.mean(pairs)]), num_seeds)[0]
        reached = correlation(truth, seeds.mean(axis=0)).statistic
        assert ceiling == pytest.approx(reached, abs=tolerance)


def test_the_ceiling_by_hand():
    assert noise_ceiling(np.array([0.5]), 2) == pytest.approx(np.sqrt(2 / 3))
    assert noise_ceiling(np.array([1.0, 0.0, -0.4]), 2).tolist() == [1, 0, 0]


def test_one_seed_has_no_ceiling():
    retrained, truth = simulated(0.5, seeds=1)
    assert lds_table(retrained, {"true": truth}, replicates=5).methods == ("true",)


def test_longer_candidates_count_for_more():
    inclusion = np.array([[True, False, True], [False, True, False]])
    tokens = np.array([1, 2, 3])
    assert predicted_utilities(inclusion, tokens, np.array([5.0, 6.0, 7.0])).tolist() == [6.5, 6]
    # A baseline's scores have no level of their own.
    assert predicted_utilities(inclusion, tokens, np.array([9.0, 9.0, 9.0])).tolist() == [9, 9]


def test_scores_must_be_whole():
    retrained, truth = simulated(0.5)
    with pytest.raises(ValueError, match="ours: no scores for the target 'second'"):
        lds_table(retrained, {"ours": {"first": truth["first"]}})
    with pytest.raises(ValueError, match="ours: 59 scores for 60 candidates"):
        lds_table(retrained, {"ours": {name: values[1:] for name, values in truth.items()}})
