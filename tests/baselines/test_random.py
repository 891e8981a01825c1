import numpy as np

from dsdm.baselines.random import random_scores
from dsdm.selection import SelectionConfig, select


def scores_of(n, seed):
    num_tokens = np.full(n, 7)
    return random_scores(num_tokens, np.zeros(n, np.int32), ("web",), seed, "abcd")


def test_the_seed_alone_decides():
    np.testing.assert_array_equal(scores_of(1000, 1).values, scores_of(1000, 1).values)
    assert (scores_of(1000, 1).values != scores_of(1000, 2).values).any()


def test_every_candidate_is_selected_equally_often():
    times = np.zeros(20)
    for seed in range(1000):
        times[select(scores_of(20, seed), SelectionConfig(candidates=5))] += 1
    np.testing.assert_allclose(times / 1000, 0.25, atol=0.06)


def test_scores_say_what_they_are():
    scores = scores_of(3, 0)
    assert (scores.method, scores.target, scores.fingerprint) == ("random", "", "abcd")
