"""Mean correlations between checkpoints and between targets."""

import numpy as np
import pytest

from dsdm.datamodel.columns import ScoreColumn
from dsdm.reporting.sections.agreement import Matrix, mean_correlations


def means_of(columns, values):
    found = [ScoreColumn(*one) for one in columns]
    matrix = Matrix("t", "all", "", found, np.array(values))
    means = mean_correlations(matrix)
    return {(one.estimator, one.between): (one.num_pairs, one.mean) for one in means}


def test_pairs_differ_in_one_thing_alone():
    columns = [("m", 0, "a"), ("m", 0, "b"), ("m", 1, "a"), ("n", 0, "a"), ("m", None, "mix")]
    values = np.arange(25.0).reshape(5, 5)
    assert means_of(columns, values) == {
        ("m", "proxies"): (1, values[0, 2]),
        ("m", "targets"): (1, values[0, 1]),
    }


def test_proxies_are_compared_on_the_mix_where_there_is_one():
    columns = [("m", 0, "mix"), ("m", 1, "mix"), ("m", 0, "a"), ("m", 1, "a"), ("m", 1, "b.mix")]
    values = np.full((5, 5), 0.1)
    values[0, 1], values[3, 4] = 0.9, 0.3
    assert means_of(columns, values) == {
        ("m", "proxies"): (1, pytest.approx(0.9)),
        ("m", "targets"): (1, pytest.approx(0.3)),
    }
