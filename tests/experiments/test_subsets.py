"""Random subsets against enumeration and by hand."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from lds.bank import draw_subset, inclusion_matrix, source_weights

from dsdm.evaluation.regression import group_inclusion

EQUAL = np.full(40, 7)


def subset(weights, seed=0, tokens=EQUAL, share=0.5):
    return draw_subset(tokens, np.asarray(weights, np.float64), share, seed)


def test_half_of_equal_candidates_is_half_of_them():
    chosen = subset(np.ones(40))
    assert len(chosen) == 20
    assert np.array_equal(chosen, np.unique(chosen))


def test_no_subset_has_more_than_its_share_of_the_tokens():
    tokens = np.random.default_rng(0).integers(1, 100, 300)
    for seed in range(20):
        taken = tokens[subset(np.ones(300), seed, tokens, 0.3)].sum()
        assert 0.3 * tokens.sum() - 100 < taken <= 0.3 * tokens.sum()


def test_a_subset_follows_from_its_seed():
    assert np.array_equal(subset(np.ones(40), 3), subset(np.ones(40), 3))
    assert not np.array_equal(subset(np.ones(40), 3), subset(np.ones(40), 4))


def test_candidates_without_weight_are_never_drawn_and_do_not_count():
    weights = np.ones(40)
    weights[:30] = 0
    assert all(subset(weights, seed).min() >= 30 for seed in range(20))
    assert len(subset(weights)) == 5


def test_there_must_be_a_candidate():
    with pytest.raises(ValueError, match="no candidate"):
        subset(np.zeros(40))


def pair_probabilities(weights):
    """Of each pair, by the definition: successive draws in proportion to what is left."""
    found = Counter()
    for first, second in permutations(range(len(weights)), 2):
        both = weights[first] / sum(weights)
        both *= weights[second] / (sum(weights) - weights[first])
        found[frozenset((first, second))] += both
    return found


def test_draws_are_in_proportion_to_what_is_left():
    weights, draws = [1.0, 2.0, 4.0, 0.5], 1500
    tokens = np.ones(4, np.int64)
    found = Counter(frozenset(subset(weights, seed, tokens).tolist()) for seed in range(draws))
    for pair, probability in pair_probabilities(weights).items():
        error = np.sqrt(probability * (1 - probability) / draws)
        assert found[pair] / draws == pytest.approx(probability, abs=4 * error)


def test_candidates_of_a_source_have_its_weight():
    sources = np.array([0, 1, 1, 2, 0])
    weights = source_weights(sources, 1.5, 0)
    assert (weights[0], weights[1]) == (weights[4], weights[2])
    assert len(set(weights)) == 3


def test_the_logarithms_of_weights_have_the_skew_as_spread():
    logs = np.log(source_weights(np.arange(20_000), 1.5, 0))
    assert logs.mean() == pytest.approx(0, abs=0.05)
    assert logs.std() == pytest.approx(1.5, rel=0.02)


def test_skewed_subsets_differ_in_their_sources_and_halves_hardly():
    sources, tokens = np.arange(4000) % 20, np.full(4000, 128)

    def spread(kind_weights):
        drawn = [draw_subset(tokens, kind_weights(seed), 0.5, seed) for seed in range(20)]
        return group_inclusion(inclusion_matrix(drawn, 4000), sources, tokens).std()

    assert spread(lambda seed: np.ones(4000)) < 0.05
    assert spread(lambda seed: source_weights(sources, 1.5, seed)) > 0.2


def test_the_matrix_says_what_is_in_each_subset():
    found = inclusion_matrix([np.array([0, 2]), np.array([], np.int64)], 3)
    assert found.tolist() == [[True, False, True], [False, False, False]]
