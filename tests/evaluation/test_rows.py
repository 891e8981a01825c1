"""The rows of each arm on a pool small enough to count."""

import numpy as np
import pytest

from dsdm.evaluation.arms import Arm, parse_arm
from dsdm.evaluation.rows import ArmPool, cut_to_tokens, training_rows
from dsdm.selection import Scores, SelectionConfig, budget_of, select

RNG = np.random.default_rng(0)
CANDIDATE_OF_ROW = np.repeat(np.arange(60), RNG.integers(1, 4, 60))
LENGTHS = RNG.integers(3, 20, len(CANDIDATE_OF_ROW))
NUM_TOKENS = np.bincount(CANDIDATE_OF_ROW, LENGTHS).astype(np.int64)
POOL = ArmPool(LENGTHS, CANDIDATE_OF_ROW, np.ones(60, bool))
SCORES = Scores(
    RNG.normal(size=60), NUM_TOKENS, np.arange(60, dtype=np.int32) % 4, tuple("abcd"), "m", "", ""
)
SELECTION = SelectionConfig(fraction=0.2)
TOTAL = int(LENGTHS.sum())
ARMS = ("top", "bottom", "random", "random@2", "repeated", "source-matched", "best-source")


def arm_called(name: str) -> Arm:
    return parse_arm(name, "m", ("m",))


def rows_of(name: str, pool: ArmPool = POOL, selection: SelectionConfig = SELECTION, **more):
    return training_rows(arm_called(name), pool, selection, 3.0, 1, SCORES, **more)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_trained_on_as_many_tokens_but_for_a_row(name):
    budget = 3 * arm_called(name).budget * budget_of(SELECTION, 60, TOTAL)
    assert budget - LENGTHS.max() < LENGTHS[rows_of(name)].sum() <= budget


@pytest.mark.parametrize("hundredths", range(1, 100))
def test_the_budget_is_the_selections_to_the_token(hundredths):
    selection = SelectionConfig(fraction=hundredths / 100)
    ones = ArmPool(np.ones(100, np.int64), np.arange(100), np.ones(100, bool))
    scores = Scores(
        np.arange(100.0), np.ones(100, np.int64), np.zeros(100, np.int32), ("a",), "m", "", ""
    )
    found = training_rows(arm_called("top"), ones, selection, 1.0, 0, scores)
    assert len(found) == hundredths
    assert set(found) == set(select(scores, selection))


def test_top_and_bottom_are_the_two_ends():
    top, bottom = (set(CANDIDATE_OF_ROW[rows_of(name)]) for name in ("top", "bottom"))
    assert top == set(select(SCORES, SELECTION))
    assert bottom == set(select(SCORES, SELECTION, bottom=True))


def test_all_is_every_row_as_often_as_there_are_epochs():
    assert np.bincount(rows_of("all")).tolist() == [3] * len(LENGTHS)
    assert np.bincount(rows_of("all-1epochs")).tolist() == [1] * len(LENGTHS)


def test_random_repeats_no_row_while_the_pool_lasts():
    rows = rows_of("random")
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", [*ARMS, "all"])
def test_no_arm_is_trained_on_what_is_not_allowed(name):
    allowed = RNG.random(60) < 0.7
    rows = rows_of(name, ArmPool(LENGTHS, CANDIDATE_OF_ROW, allowed))
    assert allowed[CANDIDATE_OF_ROW[rows]].all()


def test_near_duplicates_are_left_out_of_the_top_and_not_of_controls():
    selection = SelectionConfig(fraction=0.2, near_duplicates=0.8)
    refused = set(select(SCORES, SELECTION)[:3].tolist())

    def chosen(name: str) -> set[int]:
        rows = rows_of(name, selection=selection, is_duplicate=refused.__contains__)
        return set(CANDIDATE_OF_ROW[rows].tolist())

    assert not refused & chosen("top")
    assert chosen("bottom") == set(select(SCORES, SELECTION, bottom=True).tolist())


def test_controls_have_the_budget_and_no_other_rule():
    capped = SelectionConfig(fraction=0.2, source_cap=0.3)
    assert np.array_equal(rows_of("best-source"), rows_of("best-source", selection=capped))
    assert not np.array_equal(rows_of("top"), rows_of("top", selection=capped))


def test_a_budget_in_candidates_is_one_of_tokens_or_of_rows():
    selection = SelectionConfig(candidates=10)
    tokens = 3 * (10 * TOTAL // 60)
    assert tokens - LENGTHS.max() < LENGTHS[rows_of("random", selection=selection)].sum() <= tokens
    pool = ArmPool(LENGTHS, CANDIDATE_OF_ROW, np.ones(60, bool), counts_rows=True)
    assert len(rows_of("random", pool, selection)) == 30


def test_an_order_is_cut_to_a_budget_but_never_to_nothing():
    order, lengths = np.array([2, 0, 1]), np.array([5, 6, 7])
    assert cut_to_tokens(order, lengths, 12).tolist() == [2, 0]
    assert cut_to_tokens(order, lengths, 11).tolist() == [2]
    assert cut_to_tokens(order, lengths, 1).tolist() == [2]
