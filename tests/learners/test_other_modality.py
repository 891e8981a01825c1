"""A learner that is no text: estimators and scorers need nothing but the protocol."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsdm.datamodel.config import MIX, ScoresConfig
from dsdm.datamodel.estimate import estimate
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.score import score_examples
from dsdm.datamodel.scoring import exact_scores, layers_named, score_backward
from dsdm.learners.protocol import Learner
from dsdm.precision import Precision


@dataclass(frozen=True, eq=False)
class Classifier(Learner):
    """Points and their classes: examples are pairs of arrays."""

    model: nn.Module
    precision: Precision = "float32"

    def num(self, examples: Any) -> int:
        return len(examples[1])

    def sizes(self, examples: Any) -> np.ndarray:
        return np.ones(len(examples[1]), np.int64)

    def take(self, examples: Any, indices: np.ndarray) -> Any:
        return tuple(one[indices] for one in examples)

    def batches(
        self, examples: Any, *, forward_only: bool = False
    ) -> Iterator[tuple[np.ndarray, Any]]:
        for indices in np.array_split(np.arange(self.num(examples)), self.num(examples) // 7 + 1):
            yield indices, tuple(torch.from_numpy(one[indices]) for one in examples)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        points, labels = batch
        return -nn.functional.cross_entropy(model(points), labels, reduction="none")

    def sampled(self, batch: Any, generator: torch.Generator) -> Any:
        with torch.no_grad():
            drawn = torch.multinomial(self.model(batch[0]).softmax(1), 1, generator=generator)
        return batch[0], drawn[:, 0]

    def using(
        self, *, model: nn.Module | None = None, precision: Precision | None = None
    ) -> "Classifier":
        return replace(self, model=model or self.model, precision=precision or self.precision)


def classifier() -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Linear(8, 3))
    return Classifier(net.double())


def points(count: int, seed: int, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count) if label is None else np.full(count, label)
    return rng.normal(size=(count, 5)), labels


@pytest.mark.parametrize("labels", ["data", "sampled"])
@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_a_classifier_is_estimated_and_scored(labels: str, mode: str) -> None:
    learner, pool = classifier(), points(60, seed=1)
    targets = {"zero": points(9, seed=2, label=0)}
    config = ScoresConfig(calibration_rows=20, mode=mode)
    settings = EkfacConfig(labels=labels, curvature_rows=40)
    estimated = estimate(EstimatorInputs(learner, targets, pool), "ekfac", settings, config)
    columns, flops = score_examples(
        pool, [lambda: (learner, {"ekfac": estimated})], {"zero": 1.0}, config
    )
    (scores,) = columns.values()
    exact = exact_scores(learner, estimated.directions[MIX], pool)
    # Forward scores are differences over a finite step.
    np.testing.assert_allclose(scores, exact, rtol=1e-3 if mode == "forward" else 1e-5, atol=1e-4)
    assert scores[pool[1] == 0].mean() > scores[pool[1] != 0].mean()
    assert flops > 0


def test_factors_by_hooks_are_each_examples_gradient() -> None:
    learner, examples = classifier(), points(6, seed=3)
    direction = estimate(EstimatorInputs(learner, {"t": examples}, examples), "gradient")
    scores = score_backward(learner, [direction.directions["t"]], examples)[:, 0]
    exact = exact_scores(learner, direction.directions["t"], examples)
    np.testing.assert_allclose(scores, exact, rtol=1e-9)
    assert len(layers_named(learner, direction.directions["t"].tensors)) == 3
    assert all(parameter.grad is None for parameter in learner.model.parameters())
