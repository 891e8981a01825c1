"""Cosines against a loop of autograd."""

import pytest
import torch
from transformers import PreTrainedModel

from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import cosine_scores
from tests.conftest import ListRows, learner_of, moved_names, random_rows
from tests.oracles import example_gradient


def flat_gradient(model: PreTrainedModel, row) -> tuple[list[str], torch.Tensor]:
    names = moved_names(model)
    gradient = example_gradient(model, row, "loglik", names)
    return names, torch.cat([gradient[name].flatten() for name in names])


def test_cosines_are_those_of_the_whole_gradient(model: PreTrainedModel) -> None:
    rows = random_rows(5)
    named = dict(model.named_parameters())
    names = flat_gradient(model, rows.rows[0])[0]
    generator = torch.Generator().manual_seed(0)
    directions = [
        Direction(
            {n: torch.randn(named[n].shape, generator=generator).double() for n in names},
            "gradient",
            target,
            "p",
        )
        for target in ("one", "two")
    ]
    found = cosine_scores(learner_of(model, "loglik"), directions, rows)
    for k, direction in enumerate(directions):
        u = torch.cat([direction.tensors[name].flatten() for name in names])
        for i, row in enumerate(rows.rows):
            g = flat_gradient(model, row)[1]
            assert found[i, k] == pytest.approx(float(u @ g / (u.norm() * g.norm())), rel=1e-8)


def test_a_rows_own_gradient_has_cosine_one(model: PreTrainedModel) -> None:
    (row,) = random_rows(1).rows
    names, _ = flat_gradient(model, row)
    own = Direction(example_gradient(model, row, "loglik", names), "gradient", "own", "p")
    found = cosine_scores(learner_of(model, "loglik"), [own.scaled(3.0)], ListRows([row]))
    assert found[0, 0] == pytest.approx(1.0)
