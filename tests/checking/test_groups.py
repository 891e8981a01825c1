import numpy as np
import pytest

from dsdm.checking.groups import draw_groups, equal_parts, mean_score, training_order
from dsdm.errors import DataError

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=400)
LENGTHS = RNG.integers(10, 60, 400)


def rows_of(kind: str, share: float = 0.2, seed: int = 0) -> list[np.ndarray]:
    groups = draw_groups(SCORES, LENGTHS, 4, share, seed)
    return [rows for found, rows in groups if found == kind]


def test_groups_share_no_row() -> None:
    rows = np.concatenate([rows for _, rows in draw_groups(SCORES, LENGTHS, 4, 0.3, seed=0)])
    assert len(set(rows)) == len(rows)


def test_each_kind_has_its_share_of_the_tokens_in_equal_groups() -> None:
    for kind in ("high", "random", "low"):
        tokens = [LENGTHS[rows].sum() for rows in rows_of(kind)]
        assert max(tokens) - min(tokens) <= 2 * LENGTHS.max()
        assert sum(tokens) == pytest.approx(0.2 * LENGTHS.sum(), rel=0.03)


def test_kinds_are_the_top_the_bottom_and_neither() -> None:
    high, low = (np.concatenate(rows_of(kind)) for kind in ("high", "low"))
    chance = np.concatenate(rows_of("random"))
    left = np.setdiff1d(np.arange(400), chance)
    order = left[np.argsort(SCORES[left])]
    assert set(low) == set(order[: len(low)])
    assert set(high) == set(order[-len(high) :])
    assert abs(SCORES[chance].mean()) < 0.2


def test_groups_of_a_kind_are_replicates() -> None:
    means = [SCORES[rows].mean() for rows in rows_of("high")]
    assert np.ptp(means) < 0.5
    assert np.ptp(means) > 0


def test_another_seed_draws_other_groups() -> None:
    assert set(rows_of("random")[0]) != set(rows_of("random", seed=1)[0])


def test_a_row_is_in_the_part_that_its_middle_falls_in() -> None:
    lengths = np.array([4, 1, 3, 8])
    # tokens 0-3, 4, 5-7, 8-15; the halves meet at 8
    assert [part.tolist() for part in equal_parts(np.arange(4), lengths, 2)] == [[0, 1, 2], [3]]


def test_too_few_rows_for_the_groups_are_an_error() -> None:
    with pytest.raises(DataError, match="rows of the pool are too few for 4 groups"):
        draw_groups(SCORES[:9], LENGTHS[:9], 4, 0.2, seed=0)


def test_a_group_is_trained_on_until_the_tokens_are_used_up() -> None:
    rows = np.array([3, 8, 11])
    order = training_order(rows, LENGTHS, 1000, seed=0)
    assert 1000 - LENGTHS.max() < LENGTHS[order].sum() <= 1000
    counts = np.unique(order, return_counts=True)
    assert counts[0].tolist() == rows.tolist()
    assert np.ptp(counts[1]) <= 1


def test_the_mean_score_counts_each_predicted_token() -> None:
    order = np.array([3, 8, 3, 11])
    tokens = [SCORES[row] for row in order for _ in range(LENGTHS[row] - 1)]
    assert mean_score(SCORES, LENGTHS, order) == pytest.approx(np.mean(tokens))
