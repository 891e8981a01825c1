"""Scores that are shrunk towards the means of groups, and combined over checkpoints."""

import numpy as np
import pytest

from dsdm.datamodel.config import ScoresConfig, shrinkage_of
from dsdm.datamodel.groups import GroupMoments, checkpoint_mean, shrunk

SIZES = (60, 30, 20, 10, 5)
NUM_GROUPS = 400


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group, true effect and measured score of candidates of many groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(NUM_GROUPS), np.resize(SIZES, NUM_GROUPS))
    effect = rng.normal(2.0, 1.0, NUM_GROUPS)[group] + 0.5 * rng.normal(size=len(group))
    return group, effect, effect + rng.normal(size=len(group))


def means_of(group: np.ndarray, scores: np.ndarray, size: int) -> np.ndarray:
    moments = GroupMoments(size)
    for part in np.array_split(np.arange(len(group)), 7):
        moments.add(group[part], scores[part])
    return moments.means()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_shrunk_is_nearer_to_the_truth_than_scores_and_means_are(seed: int) -> None:
    group, effect, scores = planted(seed)
    means = means_of(group, scores, NUM_GROUPS)
    # The best linear weight: of what differs within a group, 0.25 of 1.25 is true.
    errors = {
        by: float(np.mean((shrunk(scores, group, means, by) - effect) ** 2))
        for by in (0.0, 0.8, 1.0)
    }
    assert errors[0.8] < 0.9 * errors[1.0] < 0.9 * errors[0.0]
    assert errors[0.8] == pytest.approx(0.25 * 1 / 1.25, rel=0.15)


def test_the_mean_of_a_small_group_is_shrunk_as_much_as_the_variances_say() -> None:
    group, _, scores = planted(0)
    means = means_of(group, scores, NUM_GROUPS)
    raw = np.array([scores[group == g].mean() for g in range(NUM_GROUPS)])
    # Variance 1 between groups, 1.25 within: a reliability of n / (n + 1.25).
    counts = np.bincount(group)
    kept = (means - scores.mean()) / (raw - scores.mean())
    for size in SIZES:
        assert kept[counts == size] == pytest.approx(size / (size + 1.25), abs=0.1)


def test_groups_that_do_not_differ_have_the_pools_mean() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=4000)
    group = np.tile(np.arange(2), 2000)
    # As near to each other as chance has them.
    assert means_of(group, scores - group * (scores[1::2].mean() - scores[::2].mean()), 2) == (
        pytest.approx(scores[::2].mean())
    )
    assert means_of(np.zeros(4000, int), scores, 1) == pytest.approx(scores.mean())


def test_a_group_that_was_not_seen_is_none() -> None:
    means = means_of(np.array([0, 0, 2]), np.array([1.0, 2.0, 9.0]), 4)
    assert means[[1, 3]].tolist() == [0, 0]
    assert np.isfinite(means).all()
    assert GroupMoments(2).means().tolist() == [0, 0]


def test_groups_of_one_say_nothing_of_themselves() -> None:
    scores = np.array([1.0, 2.0, 4.0])
    assert np.isfinite(means_of(np.arange(3), scores, 3)).all()


@pytest.mark.parametrize(
    ("config", "estimator", "expected"),
    [
        (ScoresConfig(), "ekfac", 0.3),
        (ScoresConfig(), "gradient", 0.0),
        (ScoresConfig(cosine=True), "ekfac", 0.0),
        # Means of groups by an early checkpoint lie further apart: less goes with them.
        (ScoresConfig(group_means_from="first"), "ekfac", 0.1),
        (ScoresConfig(group_means_from="first"), "gradient", 0.0),
        (ScoresConfig(group_means_from="first", shrinkage=0.3), "ekfac", 0.3),
    ],
)
def test_how_far_scores_are_shrunk_by_default(
    config: ScoresConfig, estimator: str, expected: float
) -> None:
    assert shrinkage_of(config, estimator) == expected


def test_checkpoints_count_by_their_weights_or_all_the_same() -> None:
    scores = [np.array([1.0, 2.0]), np.array([3.0, 6.0])]
    assert checkpoint_mean(scores, np.array([0.25, 0.75])).tolist() == [2.5, 5.0]
    assert checkpoint_mean(scores, None).tolist() == [2.0, 4.0]
