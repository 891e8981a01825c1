"""Differences between arms, by hand."""

import numpy as np
import pytest

from dsdm.evaluation.comparison import ALL_TARGETS, compare_losses
from dsdm.evaluation.intervals import paired_t_interval


def losses(*by_seed, targets=("a",)):
    return {
        seed: {target: np.array(values, float) for target in targets}
        for seed, values in enumerate(by_seed)
    }


def lines(compared):
    return {(line.target, line.arm): line for line in compared}


def test_seeds_are_paired():
    found = {"top": losses([1, 2], [3, 4]), "random": losses([2, 3], [5, 6])}
    top = lines(compare_losses(found))["a", "top"]
    assert top.loss_nats == 2.5
    assert top.over == "seeds"
    assert top.difference == paired_t_interval(np.array([-1.0, -2.0]))


def test_one_seed_is_compared_over_its_examples():
    found = {"top": losses([1, 2, 3]), "random": losses([2, 3, 4])}
    top = lines(compare_losses(found))["a", "top"]
    assert top.over == "examples"
    # Every example gains 1 nat, so no resample differs.
    assert (top.difference.low, top.difference.mean, top.difference.high) == (-1, -1, -1)


def test_only_shared_seeds_are_compared():
    found = {"top": losses([1], [2], [9]), "random": losses([2], [4])}
    top = lines(compare_losses(found))["a", "top"]
    assert (top.num_seeds, top.num_pairs) == (3, 2)
    assert top.loss_nats == 4
    assert top.difference.mean == pytest.approx(-1.5)


def test_the_baseline_has_no_difference_to_itself():
    found = {"top": losses([1]), "random": losses([2])}
    assert lines(compare_losses(found))["a", "random"].difference is None


def test_without_the_baseline_there_are_losses_and_no_differences():
    found = {"top": losses([1], [2]), "bottom": losses([3], [4])}
    assert [(line.loss_nats, line.difference) for line in compare_losses(found)] == [
        (1.5, None),
        (3.5, None),
    ]


def test_several_targets_have_a_mean():
    found = {
        "top": {0: {"a": np.array([1.0]), "b": np.array([2.0, 4.0])}},
        "random": {0: {"a": np.array([2.0]), "b": np.array([5.0, 5.0])}},
    }
    mean = lines(compare_losses(found))[ALL_TARGETS, "top"]
    assert mean.loss_nats == 2
    assert mean.difference.mean == -1.5
    # b's two examples are resampled, a's one is not: the ends are all-first and all-second.
    assert (mean.difference.low, mean.difference.high) == (-2, -1)


def test_nothing_measured_is_nothing_compared():
    assert compare_losses({}) == []


def test_a_target_outside_the_mix_is_compared_but_not_in_the_mean():
    by_target = {"a": np.array([1.0]), "b": np.array([3.0]), "c": np.array([50.0])}
    found = {"top": {0: by_target}, "random": {0: {name: x + 1 for name, x in by_target.items()}}}
    compared = lines(compare_losses(found, mix=["a", "b"]))
    assert compared["c", "top"].loss_nats == 50
    assert compared[ALL_TARGETS, "top"].loss_nats == 2
    assert (ALL_TARGETS, "top") not in lines(compare_losses(found, mix=["a"]))
