"""Gradient norms against a loop of autograd."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from dsdm.checking.norms import gradient_norms
from dsdm.learners.lm_layers import moved_layers
from tests.conftest import learner_of, moved_names, random_rows
from tests.oracles import example_gradient


def flat_gradient(model: PreTrainedModel, row) -> tuple[list[str], torch.Tensor]:
    names = moved_names(model)
    gradient = example_gradient(model, row, "loglik", names)
    return names, torch.cat([gradient[name].flatten() for name in names])


@pytest.mark.parametrize("longest", [5, 16])
def test_norms_are_those_of_the_whole_gradient(model: PreTrainedModel, longest: int) -> None:
    # Rows of 16 tokens form the gradient in narrow layers, shorter ones do not.
    rows = random_rows(6, longest)
    expected = [float(flat_gradient(model, row)[1].norm()) for row in rows.rows]
    layers = moved_layers(model, embeddings=True)
    found = gradient_norms(learner_of(model, "loglik"), layers, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
