import math
import time
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdm.config import parse_config
from dsdm.errors import ConfigError, DataError, NumericalError
from dsdm.selection import (
    Scores,
    SelectionConfig,
    budget_of,
    choose,
    select,
    selected_tokens,
)
from dsdm.selection.greedy import BLOCK

NAMES = ("books", "code", "web")


def make_scores(values, num_tokens=None, sources=None, dtype=np.float64):
    values = np.asarray(values, dtype)
    if num_tokens is None:
        num_tokens = np.full(len(values), 10)
    if sources is None:
        sources = np.zeros(len(values), np.int32)
    return Scores(
        values=values,
        num_tokens=np.asarray(num_tokens, np.int64),
        sources=np.asarray(sources, np.int32),
        source_names=NAMES,
        method="test",
        target="mix",
        fingerprint="0123",
    )


def take(scores, mask_or_order):
    return Scores(
        scores.values[mask_or_order],
        scores.num_tokens[mask_or_order],
        scores.sources[mask_or_order],
        NAMES,
        "test",
        "mix",
        "0123",
    )


@st.composite
def pools(draw, distinct=False, min_size=1):
    """Arguments of make_scores; beartype draws random numbers, so no Scores inside a strategy."""
    number = st.integers(-9, 9) if not distinct else st.integers(-10_000, 10_000)
    values = draw(st.lists(number, min_size=min_size, max_size=40, unique=distinct))
    n = len(values)
    num_tokens = draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))
    sources = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return values, num_tokens, sources


shares = st.integers(0, 100).map(lambda percent: percent / 100)
positive_shares = st.integers(1, 100).map(lambda percent: percent / 100)


@st.composite
def budgets(draw, scores):
    if draw(st.booleans()):
        return {"candidates": draw(st.integers(1, len(scores.values)))}
    return {"tokens": draw(st.integers(1, int(scores.num_tokens.sum())))}


def costs_and_budget(scores, config):
    if config.candidates is not None:
        return np.ones(len(scores.values), int), config.candidates
    return scores.num_tokens, math.floor(config.tokens)


def greedy(scores, config, bottom=False):
    """The rule as the documentation states it, one candidate at a time."""
    costs, room = costs_and_budget(scores, config)
    sign = 1 if bottom else -1
    chosen = []
    for i in sorted(range(len(costs)), key=lambda i: (sign * scores.values[i], i)):
        if costs[i] <= room:
            chosen.append(i)
            room -= costs[i]
    return sorted(chosen)


# 0.0 and -0.0 tie; the others are near each other, far apart, or denormal.
AWKWARD = [0.0, -0.0, 1.0, np.nextafter(1.0, 2.0), -1.0, 1e-310, 1e30, -1e30, 0.5, 2.0]


@given(
    st.data(),
    st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=40),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.booleans(),
    st.integers(1, 8),
    st.integers(1, 9),
)
def test_the_choice_is_the_greedy_rule_whatever_is_sorted_at_a_time(
    data, values, dtype, bottom, window, block
):
    num_tokens = data.draw(st.lists(st.integers(1, 30), min_size=len(values), max_size=len(values)))
    scores = make_scores(np.clip(values, -6e4, 6e4), num_tokens, dtype=dtype)
    config = SelectionConfig(**data.draw(budgets(scores)))
    greedy_module = "dsdm.selection.greedy"
    with mock.patch(f"{greedy_module}.WINDOW", window), mock.patch(f"{greedy_module}.BLOCK", block):
        assert select(scores, config, bottom=bottom).tolist() == greedy(scores, config, bottom)


@pytest.mark.parametrize("fraction", [0.1, 0.95])
def test_a_choice_by_score_needs_two_bytes_a_candidate(fraction):
    rng = np.random.default_rng(0)
    n = 4_000_000
    scores = Scores(rng.standard_normal(n, np.float32), rng.integers(1, 999, n, np.int32))
    tracemalloc.start()
    choose(scores, SelectionConfig(fraction=fraction))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * n + 16 * BLOCK * 8


@pytest.mark.parametrize(
    ("budget", "factor", "expected"),
    [
        ({"tokens": 100}, 0.29, 29),
        ({"candidates": 30}, 4 / 12, 10),
        ({"fraction": 0.3}, 2, 600),
        ({"fraction": 0.6}, 2, 1000),
    ],
)
def test_a_multiple_of_a_budget_is_exact(budget, factor, expected):
    config = SelectionConfig(**budget)
    assert budget_of(config, 100, 1000, factor) == expected
    tokens = expected * 10 if "candidates" in budget else expected
    assert selected_tokens(config, 100, 1000, factor) == tokens


def test_a_selection_of_a_multiple_takes_as_much():
    scores = make_scores([4, 3, 2, 1])
    assert select(scores, SelectionConfig(candidates=1), factor=3).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"5 candidates, but the pool has only 4"):
        select(scores, SelectionConfig(candidates=1), factor=5)


def test_a_plain_array_is_chosen_from_by_name_of_the_budget():
    values, num_tokens = np.array([0.1, 0.9, 0.5, 0.7]), np.array([5, 5, 5, 5])
    assert select(values, candidates=2).tolist() == [1, 3]
    assert select(values, num_tokens=num_tokens, fraction=0.75).tolist() == [1, 2, 3]


def test_what_is_refused_is_never_taken():
    scores = make_scores([4.0, 3.0, 2.0, 1.0])
    config = SelectionConfig(candidates=2, random_share=0.5)
    for seed in range(5):
        config = SelectionConfig(candidates=2, random_share=0.5, seed=seed)
        assert not {0, 2} & set(select(scores, config, refused=np.array([0, 2])).tolist())


@given(st.data(), pools(), st.booleans())
def test_the_fast_path_is_the_greedy_rule(data, pool, bottom):
    scores = make_scores(*pool)
    config = SelectionConfig(**data.draw(budgets(scores)))
    assert select(scores, config, bottom=bottom).tolist() == greedy(scores, config, bottom)


@given(st.data(), pools(), shares, st.sampled_from([0.0, 0.5]), st.booleans())
def test_the_fast_path_is_the_general_loop(data, pool, random_share, temperature, bottom):
    scores = make_scores(*pool)
    config = SelectionConfig(
        **data.draw(budgets(scores)), random_share=random_share, temperature=temperature
    )
    fast = select(scores, config, bottom=bottom)
    slow = select(scores, config, bottom=bottom, is_refused=lambda candidate: False)
    assert fast.tolist() == slow.tolist()


@pytest.mark.parametrize("budget", [{"fraction": 0.3}, {"tokens": 7_777_777}, {"candidates": 90}])
def test_the_two_paths_agree_over_many_blocks(budget):
    rng = np.random.default_rng(0)
    n = 150_000
    scores = make_scores(
        rng.integers(-1000, 1000, n), rng.integers(1, 999, n), rng.integers(0, 3, n), np.float32
    )
    fast = select(scores, SelectionConfig(**budget))
    slow = select(scores, SelectionConfig(**budget, source_cap=1.0))
    np.testing.assert_array_equal(fast, slow)


@given(st.data(), pools(), shares, st.sampled_from([0.0, 2.0]))
def test_a_selection_is_within_budget_unique_and_sorted(data, pool, random_share, temperature):
    scores = make_scores(*pool)
    config = SelectionConfig(
        **data.draw(budgets(scores)), random_share=random_share, temperature=temperature
    )
    costs, budget = costs_and_budget(scores, config)
    chosen = select(scores, config)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert costs[chosen].sum() <= budget
    left = np.delete(costs, chosen)
    assert not (left <= budget - costs[chosen].sum()).any(), "something that fits was left out"


@given(st.data(), pools(distinct=True))
def test_permuting_candidates_permutes_the_selection(data, pool):
    scores = make_scores(*pool)
    config = SelectionConfig(**data.draw(budgets(scores)))
    order = np.array(data.draw(st.permutations(range(len(scores.values)))))
    permuted = select(take(scores, order), config)
    assert sorted(order[permuted].tolist()) == select(scores, config).tolist()


@given(st.data(), pools(min_size=3), st.lists(positive_shares, min_size=3, max_size=3))
def test_caps_are_kept(data, pool, caps):
    scores = make_scores(*pool)
    config = SelectionConfig(
        **data.draw(budgets(scores)), source_cap=dict(zip(NAMES, caps, strict=True))
    )
    costs, budget = costs_and_budget(scores, config)
    try:
        chosen = select(scores, config)
    except DataError:
        reachable = [
            min(cap * budget, costs[scores.sources == s].sum()) for s, cap in enumerate(caps)
        ]
        assert sum(reachable) < budget
        return
    for source, cap in enumerate(caps):
        assert costs[chosen][scores.sources[chosen] == source].sum() <= cap * budget + 1e-9


@given(st.data(), pools(min_size=3), st.integers(0, 50), st.integers(0, 50))
def test_floors_are_kept_to_within_a_candidate(data, pool, books, web):
    scores = make_scores(*pool)
    floors = {"books": books / 100, "web": web / 100}
    config = SelectionConfig(**data.draw(budgets(scores)), source_floor=floors)
    costs, budget = costs_and_budget(scores, config)
    try:
        chosen = select(scores, config)
    except DataError:
        totals = {name: costs[scores.sources == NAMES.index(name)].sum() for name in floors}
        assert any(totals[name] < share * budget for name, share in floors.items())
        return
    room = budget - costs[chosen].sum()
    for name, share in floors.items():
        in_source = scores.sources == NAMES.index(name)
        kept = costs[chosen][in_source[chosen]].sum()
        left = np.setdiff1d(np.flatnonzero(in_source), chosen)
        assert kept >= share * budget or not (costs[left] <= room).any()


def test_a_floor_takes_the_best_of_its_source():
    scores = make_scores([9, 8, 7, 3, 1, 2], sources=[0, 0, 0, 2, 2, 2])
    config = SelectionConfig(candidates=4, source_floor={"web": 0.5})
    assert select(scores, config).tolist() == [0, 1, 3, 5]


def test_a_floor_that_the_ranking_exceeds_changes_nothing():
    scores = make_scores([1, 2, 3, 9, 8, 7], sources=[0, 0, 0, 2, 2, 2])
    config = SelectionConfig(candidates=3, source_floor={"web": 0.5})
    assert select(scores, config).tolist() == [3, 4, 5]


def test_one_cap_for_all_sources_holds_for_each():
    scores = make_scores([9, 8, 7, 6, 5, 4], sources=[0, 0, 0, 1, 1, 2])
    config = SelectionConfig(candidates=5, source_cap=0.4)
    assert select(scores, config).tolist() == [0, 1, 3, 4, 5]


def test_a_cap_means_the_share_as_written():
    scores = make_scores(np.arange(200.0), sources=np.arange(200) // 100)
    config = SelectionConfig(candidates=100, source_cap={"code": 0.29})
    chosen = select(scores, config)
    assert (chosen >= 100).sum() == 29


def test_ties_go_to_the_first_index_from_both_ends():
    scores = make_scores([1, 1, 1, 1])
    config = SelectionConfig(candidates=2)
    assert select(scores, config).tolist() == [0, 1]
    assert select(scores, config, bottom=True).tolist() == [0, 1]


def test_bottom_takes_the_lowest_scores():
    scores = make_scores([5, 1, 4, 2])
    assert select(scores, SelectionConfig(candidates=2), bottom=True).tolist() == [1, 3]


def test_a_candidate_that_does_not_fit_is_skipped_for_a_smaller_one():
    scores = make_scores([4, 3, 2, 1], num_tokens=[10, 50, 5, 5])
    assert select(scores, SelectionConfig(tokens=20)).tolist() == [0, 2, 3]


def test_fraction_is_a_share_of_the_tokens():
    scores = make_scores([4, 3, 2, 1], num_tokens=[10, 20, 30, 40])
    assert select(scores, SelectionConfig(fraction=0.3)).tolist() == [0, 1]
    assert select(scores, SelectionConfig(fraction=1.0)).tolist() == [0, 1, 2, 3]


def test_near_duplicates_are_asked_only_about_what_would_be_taken():
    scores = make_scores([5, 4, 3, 2, 1], num_tokens=[10, 99, 10, 10, 10])
    asked = []

    def is_refused(candidate):
        asked.append(candidate)
        return candidate == 2

    config = SelectionConfig(tokens=25, near_duplicates=0.8)
    chosen = select(scores, config, is_refused=is_refused)
    assert chosen.tolist() == [0, 3]
    assert asked == [0, 2, 3]


def test_near_duplicates_without_a_guard_is_misuse():
    with pytest.raises(ValueError, match="is_refused"):
        select(make_scores([1, 2]), SelectionConfig(candidates=1, near_duplicates=0.8))


def test_the_random_share_ignores_scores():
    scores = make_scores(np.arange(10_000))
    chosen = select(scores, SelectionConfig(candidates=1000, random_share=0.5))
    assert len(chosen) == 1000
    assert (chosen >= 9_500).sum() >= 500
    rest = chosen[chosen < 9_500]
    assert 4_000 < rest.mean() < 5_500


def test_temperature_moves_the_choice_from_best_towards_random():
    scores = make_scores(np.arange(10_000))

    def mean_rank(temperature):
        config = SelectionConfig(candidates=1000, temperature=temperature)
        return select(scores, config).mean()

    assert mean_rank(0) > mean_rank(0.5) > mean_rank(5) > mean_rank(1e6)
    assert abs(mean_rank(1e6) - 5_000) < 300


def test_temperature_1_samples_like_softmax_of_standardised_scores():
    values = np.array([0.0, 1.0, 2.0])
    wins = np.zeros(3)
    for seed in range(1500):
        config = SelectionConfig(candidates=1, temperature=1.0, seed=seed)
        wins[select(make_scores(values), config)[0]] += 1
    weights = np.exp(values / values.std())
    np.testing.assert_allclose(wins / wins.sum(), weights / weights.sum(), atol=0.03)


@pytest.mark.parametrize("rule", [{"random_share": 0.5}, {"temperature": 1.0}])
def test_the_seed_alone_decides_what_is_random(rule):
    scores = make_scores(np.arange(1000))
    first = select(scores, SelectionConfig(candidates=100, seed=3, **rule))
    again = select(scores, SelectionConfig(candidates=100, seed=3, **rule))
    other = select(scores, SelectionConfig(candidates=100, seed=4, **rule))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_stops_the_selection(bad):
    with pytest.raises(NumericalError, match=r"'test' gave 1 of 3 .* candidate 1"):
        select(make_scores([1, bad, 2]), SelectionConfig(candidates=1))


def test_a_budget_above_the_pool_is_an_error_with_both_numbers():
    scores = make_scores([1, 2, 3], num_tokens=[1000, 1000, 500])
    with pytest.raises(DataError, match=r"4,000 tokens, but the pool has only 2,500"):
        select(scores, SelectionConfig(tokens=4e3))
    with pytest.raises(DataError, match=r"4 candidates, but the pool has only 3"):
        select(scores, SelectionConfig(candidates=4))


def test_caps_that_leave_less_than_the_budget_are_an_error():
    scores = make_scores([1, 2, 3, 4], sources=[0, 0, 1, 1])
    with pytest.raises(DataError, match=r"`source_cap` leaves 20 of the 40"):
        select(scores, SelectionConfig(fraction=1.0, source_cap=0.25))


def test_a_floor_above_what_the_source_has_is_an_error():
    scores = make_scores([1, 2, 3, 4], sources=[0, 0, 0, 1])
    with pytest.raises(DataError, match=r"asks for 2 from source 'code', which has only 1"):
        select(scores, SelectionConfig(candidates=4, source_floor={"code": 0.5}))


@pytest.mark.parametrize("rule", [{"source_cap": {"wbe": 0.5}}, {"source_floor": {"wbe": 0.5}}])
def test_a_source_that_the_pool_lacks_is_an_error(rule):
    with pytest.raises(ConfigError, match="no source 'wbe'; it has books, code, web"):
        select(make_scores([1, 2]), SelectionConfig(candidates=1, **rule))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tokens": 10.0, "candidates": 3},
        {"fraction": 0.5, "tokens": 10.0, "candidates": 3},
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"fraction": math.nan},
        {"candidates": 1, "random_share": -0.1},
        {"candidates": 1, "near_duplicates": 0},
        {"candidates": 1, "source_cap": 0.0},
        {"candidates": 1, "source_cap": {"web": 2.0}},
        {"candidates": 1, "source_floor": {"web": -0.5}},
        {"candidates": 1, "source_floor": {"web": 0.5}, "source_cap": 0.4},
        {"candidates": 1, "source_floor": {"web": 0.6, "code": 0.5}},
        {"candidates": 1, "source_floor": {"web": 0.6}, "random_share": 0.5},
        {"candidates": 1, "temperature": -1.0},
        {"candidates": 1, "temperature": math.inf},
        {"candidates": 1, "seed": -1},
    ],
)
def test_contradictory_configuration_is_an_error(values):
    with pytest.raises(ConfigError, match="selection: "):
        SelectionConfig(**values)
    with pytest.raises(ConfigError, match="selection: "):
        parse_config(values, SelectionConfig, "run.yaml")


@pytest.mark.parametrize(
    "budget", [{"tokens": 0.5}, {"candidates": 0}, {"tokens": math.nan}, {"fraction": 1e-9}]
)
def test_a_budget_below_one_is_an_error(budget):
    with pytest.raises(ConfigError, match="give at least 1"):
        select(make_scores([1, 2]), SelectionConfig(**budget))


def test_scores_of_different_lengths_are_misuse():
    with pytest.raises(ValueError, match="2 values of type float64, 3 token counts, 2 sources"):
        make_scores([1, 2], num_tokens=[1, 2, 3])


@pytest.mark.slow
def test_ten_million_candidates_take_a_few_seconds():
    rng = np.random.default_rng(0)
    n = 10_000_000
    scores = make_scores(rng.normal(size=n), rng.integers(1, 3000, n))
    start = time.process_time()
    select(scores, SelectionConfig(fraction=0.1))
    assert time.process_time() - start < 10
