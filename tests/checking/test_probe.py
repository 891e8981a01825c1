import numpy as np
import pytest

from dsdm.checking.config import ProbeConfig
from dsdm.checking.measured import GroupKind
from dsdm.checking.probe import (
    TrainedGroup,
    draw_groups,
    equal_parts,
    group_order,
    mean_reductions,
    mean_score,
    measure_probe,
    probe_rows,
    probe_training,
    reduction_reliability,
)
from dsdm.errors import DataError
from dsdm.lm.config import TrainConfig

WEIGHTS = {"a": 1.0, "b": 1.0}
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=400)
LENGTHS = RNG.integers(10, 60, 400)


def world(noise: float, sign: float = 1.0) -> tuple[dict, dict, list[dict]]:
    """Scores of 12 groups and losses of 30 examples that fall as the scores say."""
    rng = np.random.default_rng(0)
    scores = np.linspace(-2, 2, 12)
    before = {"a": rng.normal(5, 1, 30), "b": rng.normal(3, 1, 30)}
    after = [
        {
            name: losses - sign * 0.1 * score - noise * rng.normal(size=30)
            for name, losses in before.items()
        }
        for score in scores
    ]
    return {"mix": scores, "a": scores, "b": scores}, before, after


def test_a_reduction_is_the_fall_of_the_mean_loss() -> None:
    _, before, after = world(noise=0.5)
    found = mean_reductions(before, after)["b"]
    for number, group in enumerate(after):
        expected = sum(before["b"]) / 30 - sum(group["b"]) / 30
        assert found[number] == pytest.approx(expected)


def measured(scores: dict, before: dict, after: list[dict], kinds: list[GroupKind] | None = None):
    """The probe of groups of one row each, whose scores are the groups'."""
    kinds = kinds or ["high", "random", "low"] * 4
    groups = [
        TrainedGroup(kind, np.array([i]), np.array([i, i]), 50, losses)
        for i, (kind, losses) in enumerate(zip(kinds, after, strict=True))
    ]
    lengths = np.full(len(groups), 9)
    return measure_probe(
        groups, lengths, scores, before, WEIGHTS, seed=0, steps=6, proxy_tokens=1200
    )


def test_the_probe_follows_scores_that_are_right() -> None:
    found = measured(*world(noise=0.01)).correlations
    assert list(found) == ["mix", "a", "b"]
    assert all(one is not None and one.mean > 0.95 and one.low > 0.5 for one in found.values())


def test_the_probe_is_negative_where_scores_point_the_wrong_way() -> None:
    found = measured(*world(noise=0.01, sign=-1.0)).correlations["mix"]
    assert found is not None
    assert found.high < 0


def test_groups_that_score_the_same_have_no_correlation() -> None:
    _, before, after = world(noise=0.01)
    scores = {name: np.ones(12) for name in ("mix", "a", "b")}
    assert set(measured(scores, before, after).correlations.values()) == {None}


def test_the_gain_is_the_high_groups_mean_over_the_random_ones() -> None:
    falls = [0.5, 0.7, 0.1, 0.3, -9.0, 9.0]
    kinds: list[GroupKind] = ["high", "high", "random", "random", "low", "low"]
    before = {name: np.array([5.0, 6.0]) for name in WEIGHTS}
    after = [{name: before[name] - fall for name in WEIGHTS} for fall in falls]
    scores = {name: np.arange(6.0) for name in ("mix", "a", "b")}
    found = measured(scores, before, after, kinds).gain["a"]
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.6))


def test_each_group_has_its_score_and_what_it_did() -> None:
    scores, before, after = world(noise=0.01)
    found = measured(scores, before, after)
    assert [group.score for group in found.groups] == pytest.approx(scores["mix"])
    assert [group.kind for group in found.groups[:3]] == ["high", "random", "low"]
    reductions = mean_reductions(before, after)
    assert found.groups[4].reductions == {name: reductions[name][4] for name in WEIGHTS}
    assert (found.tokens, found.share_of_proxy, found.steps) == (600, 0.5, 6)


def test_rows_that_the_proxy_has_seen_are_left_out_where_enough_others_are_there() -> None:
    seen = np.arange(8) >= 2
    assert probe_rows(seen).tolist() == [0, 1]
    assert probe_rows(np.arange(8) >= 1).tolist() == list(range(8))


def test_reductions_are_reliable_as_far_as_examples_agree() -> None:
    clear, noisy = (reduction_reliability(*world(noise)[1:], WEIGHTS, 0) for noise in (0.01, 50.0))
    assert clear is not None
    assert noisy is not None
    assert clear > 0.9
    assert noisy < 0.7


def test_one_example_has_no_halves() -> None:
    _, before, after = world(noise=0.01)
    before["b"] = before["b"][:1]
    after = [group | {"b": group["b"][:1]} for group in after]
    assert reduction_reliability(before, after, WEIGHTS, 0) is None


def test_the_probe_trains_as_the_proxies_did_at_its_own_rate_and_batch() -> None:
    proxy = TrainConfig(lr=0.01, batch_tokens=4096, weight_decay=0.3)
    config = ProbeConfig(lr_share=0.5, batch_tokens=128)
    found = probe_training(config, proxy, row_tokens=64)
    assert (found.lr, found.batch_tokens, found.weight_decay) == (0.005, 128, 0.3)
    assert probe_training(config, proxy, row_tokens=256).batch_tokens == 256


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
    order = group_order(rows, LENGTHS, 1000, seed=0)
    assert 1000 - LENGTHS.max() < LENGTHS[order].sum() <= 1000
    counts = np.unique(order, return_counts=True)
    assert counts[0].tolist() == rows.tolist()
    assert np.ptp(counts[1]) <= 1


def test_the_mean_score_counts_each_predicted_token() -> None:
    order = np.array([3, 8, 3, 11])
    tokens = [SCORES[row] for row in order for _ in range(LENGTHS[row] - 1)]
    assert mean_score(SCORES, LENGTHS, order) == pytest.approx(np.mean(tokens))
