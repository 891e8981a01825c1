import math
from collections import Counter

import numpy as np
import pytest

from dsdm.checking.measured import Curvature
from dsdm.checking.proxies import curvature_of, token_mean, unigram_entropy
from dsdm.data.batches import Row
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.learners.lm_layers import moved_layers
from tests.conftest import ListRows, random_rows, tiny_model


def test_the_unigram_entropy_is_the_least_loss_of_knowing_frequencies() -> None:
    rows = random_rows(40)
    tokens = [int(token) for row in rows.rows for token in row.tokens[1:]]
    counts = Counter(tokens)
    losses = [-math.log(counts[token] / len(tokens)) for token in tokens]
    assert unigram_entropy(rows) == pytest.approx(np.mean(losses))


def test_rows_of_one_token_over_and_over_have_no_entropy() -> None:
    assert unigram_entropy(ListRows([Row(np.array([1, 4, 4])), Row(np.array([2, 4]))])) == 0


def test_the_mean_loss_is_over_predicted_tokens() -> None:
    losses, lengths = np.array([2.0, 5.0, 9.0]), np.array([3, 2, 1])
    assert token_mean(losses, lengths) == pytest.approx((2 + 2 + 5) / 3)
    assert token_mean(losses[:0], lengths[:0]) is None


def test_the_dimension_is_that_of_what_is_inverted() -> None:
    model = tiny_model()  # two blocks of width 8: 9x24, 9x8, 9x32, 33x8 with their biases
    layers = moved_layers(model, embeddings=True)
    ekfac = EkfacConfig(curvature_rows=50, damping=0.3)
    assert curvature_of(layers, "ekfac", ekfac, 1000) == Curvature(50, 33, 0.3)
    # And the table of 23 tokens, whose vocabulary only TRAK projects.
    projected = 2 * (9 * 16 + 9 * 8 + 9 * 16 + 16 * 8) + 16 * 8
    trak = TrakConfig(curvature_rows=50, damping=0.3, projection=16)
    assert curvature_of(layers, "trak", trak, 40) == Curvature(40, projected, 0.3)
    for without in ("gradient", "metagradient"):
        assert curvature_of(layers, without, ESTIMATORS[without].settings(), 1000) is None
