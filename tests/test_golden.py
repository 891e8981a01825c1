"""Numbers that a refactoring must not change: 20 steps of training, then every estimator's scores.

A change of method changes them on purpose: `python -m tests.test_golden` writes them anew, and the
changelog says what they were. Everything runs in float64, so that processors agree.
"""

import json
from pathlib import Path

import numpy as np
import torch

from dsdm.baselines.less_math import AdamSteps, mean_unit_gradient
from dsdm.data.batches import Row
from dsdm.datamodel.config import MIX, ScoresConfig
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimate import estimate
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.estimators.trak import TrakConfig
from dsdm.datamodel.scoring import score_backward, unit_scores
from dsdm.evaluation.losses import example_losses
from dsdm.lm.config import TrainConfig
from dsdm.lm.train import epoch_order, train
from tests.conftest import VOCAB, ListRows, learner_of, tiny_model

GOLDEN = Path(__file__).parent / "golden.json"


def counting_rows(count: int, steps: list[int], answer_start: int = 1) -> ListRows:
    """Rows that count on by one of `steps`; they need no generator that could change."""
    return ListRows(
        [
            Row((7 * i + steps[i % len(steps)] * np.arange(6 + i % 5)) % VOCAB, answer_start)
            for i in range(count)
        ]
    )


def compute(folder: Path) -> dict[str, list[float]]:
    torch.manual_seed(0)
    model = tiny_model("gpt2", scale=2.0)
    rows = counting_rows(48, steps=[1, 2, 5, 11])
    train_config = TrainConfig(batch_tokens=64, lr=0.01, precision="float32")
    order = epoch_order(np.arange(48), 20 * 64 / rows.lengths.sum(), seed=0)
    result = train(model, rows, order, train_config, work=folder / "work", keeps_moments=True)
    assert result.steps == 20
    losses = example_losses(model, rows, batch_tokens=64, precision="float32")
    numbers = {"train": [entry["loss"] for entry in result.metrics], "after": losses.tolist()}
    targets = {"ones": counting_rows(6, [1], 3), "fives": counting_rows(6, [5], 2)}
    weights = {"ones": 1.0, "fives": 0.5}
    settings = {
        "ekfac": EkfacConfig(curvature_rows=32),
        "gradient": None,
        "trak": TrakConfig(curvature_rows=32, damping=0.1, projection=3),
    }
    scores = ScoresConfig(calibration_rows=24, per_target=True, mode="backward")
    candidates = counting_rows(9, [1, 5, 9])
    learner, scorer = (learner_of(model, batch_tokens=tokens) for tokens in (64, 8192))
    inputs = EstimatorInputs(learner, targets, rows, weights, scorer=scorer)
    for name, own in settings.items():
        estimated = estimate(inputs, name, own, scores)
        for target in (*targets, MIX):
            found = score_backward(scorer, [estimated.directions[target]], candidates)
            numbers[f"{name}.0.{target}"] = found[:, 0].tolist()
    learner = learner_of(model, "loglik", batch_tokens=64)
    less = [
        Direction(mean_unit_gradient(learner, examples, learner.layers()), "less", target)
        for target, examples in targets.items()
    ]
    assert result.moments is not None
    steps = AdamSteps(result.moments, dict(model.named_parameters()))
    scorer = learner_of(model, "loglik", batch_tokens=8192)
    found = unit_scores(scorer, less, candidates, change=steps)
    for direction, column in zip(less, found.T, strict=True):
        numbers[f"less.0.{direction.target}"] = column.tolist()
    return numbers


def test_numbers_are_those_that_were_stored(tmp_path: Path) -> None:
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = compute(tmp_path)
    assert list(found) == list(stored)
    for name, expected in stored.items():
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(
            found[name], expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name
        )


def make_golden() -> None:
    """Writes the numbers of the code as it is."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        numbers = compute(Path(folder))
    GOLDEN.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_golden()
