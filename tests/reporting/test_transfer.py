"""Transfer between targets."""

import numpy as np
import pytest

from dsdm.evaluation.comparison import compare_losses
from dsdm.reporting.sections.transfer import transfer_matrices

LOSSES = {"random": (3.0, 2.0), "m:a": (2.0, 2.5), "m:b": (3.1, 1.0), "top": (2.4, 1.4)}


def lines(losses):
    rng = np.random.default_rng(0)
    return compare_losses(
        {
            arm: {
                seed: {
                    target: np.full(3, mean + 0.01 * rng.normal())
                    for target, mean in zip("ab", means, strict=True)
                }
                for seed in range(3)
            }
            for arm, means in losses.items()
        }
    )


def test_a_row_is_an_arm_that_was_selected_for_one_target():
    (matrix,) = transfer_matrices(lines(LOSSES), ["a", "b"], {"m": "top"})
    assert matrix.method == "m"
    assert list(matrix.rows) == ["a", "b", "all targets"]
    assert list(matrix.arms) == ["m:a", "m:b", "top"]
    assert matrix.columns == ["a", "b", "mean of targets"]
    expected = [[-1.0, 0.5, -0.25], [0.1, -1.0, -0.45], [-0.6, -0.6, -0.6]]
    assert matrix.differences == pytest.approx(np.array(expected), abs=0.05)
    assert (matrix.lows < matrix.differences).all()
    assert matrix.is_clear(0, 0)
    assert matrix.largest == pytest.approx(1.0, abs=0.05)


def test_each_method_has_a_matrix_of_the_arms_that_it_has():
    found = transfer_matrices(lines(LOSSES | {"n:b": (3.0, 1.9), "n": (3.0, 1.9)}), ["a", "b"], {})
    assert [(matrix.method, list(matrix.arms)) for matrix in found] == [
        ("m", ["m:a", "m:b"]),
        ("n", ["n:b", "n"]),
    ]


def test_without_random_nothing_is_known():
    without = {arm: means for arm, means in LOSSES.items() if arm != "random"}
    (matrix,) = transfer_matrices(lines(without), ["a", "b"], {})
    assert np.isnan(matrix.differences).all()
    assert matrix.largest == 1.0
    assert not matrix.is_clear(0, 0)


def test_arms_for_all_targets_alone_have_no_matrix():
    losses = {"random": (1.0, 1.0), "m": (1.0, 1.0), "m:a-bottom": (1.0, 1.0)}
    assert transfer_matrices(lines(losses), ["a", "b"], {}) == []


def test_what_is_evaluated_may_be_other_than_what_is_selected_for():
    (matrix,) = transfer_matrices(lines({"random": (1.0, 1.0), "m:c": (0.5, 2.0)}), ["c"], {})
    assert (matrix.rows, matrix.columns) == (["c"], ["a", "b", "mean of targets"])
    assert matrix.differences == pytest.approx(np.array([[-0.5, 1.0, 0.25]]), abs=0.05)
