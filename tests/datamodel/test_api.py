"""The library as one calls it who has a model and lists of tokens."""

import numpy as np
import pytest

import dsdm
from dsdm.errors import ConfigError
from tests.conftest import VOCAB, random_rows, tiny_model


def counting(count: int, step: int, seed: int) -> list[np.ndarray]:
    """Token arrays that count on by `step`."""
    starts = np.random.default_rng(seed).integers(0, VOCAB, count)
    return [(start + step * np.arange(8)) % VOCAB for start in starts]


def test_scores_favour_what_is_like_the_target() -> None:
    learner = dsdm.CausalLM(tiny_model(scale=1.0), batch_tokens=100)
    pool = [*counting(30, 1, seed=0), *counting(30, 5, seed=1)]
    direction = dsdm.estimate(learner, counting(10, 5, seed=2), pool, damping=0.1)
    assert (direction.estimator, direction.target) == ("ekfac", "mix")
    scores = dsdm.score(learner, direction, pool)
    assert scores.values[30:].mean() > scores.values[:30].mean() + 1
    assert scores.values.std() == pytest.approx(1, abs=0.05)
    assert scores.num_tokens.tolist() == [8] * 60
    kept = dsdm.select(scores, dsdm.SelectionConfig(candidates=10))
    assert len(kept) == 10
    for mode in ("forward", "cosine"):
        other = dsdm.score(learner, direction, pool, mode=mode)
        assert np.corrcoef(other.values, scores.values)[0, 1] > 0.9


def test_several_models_give_a_list_of_directions_and_their_mean_score() -> None:
    learners = [dsdm.CausalLM(tiny_model(seed=seed, scale=1.0)) for seed in (0, 1)]
    pool = random_rows(40, seed=1)
    targets = {"a": random_rows(5, seed=2), "b": random_rows(5, seed=3)}
    directions = dsdm.estimate(
        learners, targets, pool, method="gradient", weights={"a": 1.0, "b": 2.0}
    )
    scores = dsdm.score(learners, directions, pool)
    each = [dsdm.score(*pair, pool).values for pair in zip(learners, directions, strict=True)]
    np.testing.assert_allclose(scores.values, np.mean(each, axis=0))


def test_labels_say_which_tokens_count() -> None:
    learner = dsdm.CausalLM(tiny_model())
    tokens = counting(4, 3, seed=0)
    masked = [{"input_ids": row, "labels": np.where(np.arange(8) < 4, -100, row)} for row in tokens]
    outputs = [
        learner.outputs(learner.model, batch).tolist()
        for examples in (masked, tokens)
        for _, batch in learner.batches(examples)
    ]
    assert outputs[0] != outputs[1]
    (_, batch), *_ = learner.batches(masked)
    assert (batch.labels != -100).sum(1).tolist() == [4] * 4


def test_what_can_not_be_estimated_is_refused() -> None:
    learner, rows = dsdm.CausalLM(tiny_model()), random_rows(20)
    with pytest.raises(ConfigError, match=r"unknown field `dampin`.* did you mean `damping`"):
        dsdm.estimate(learner, rows, rows, dampin=1.0)
    with pytest.raises(ValueError, match="estimator 'none' is not known"):
        dsdm.estimate(learner, rows, rows, method="none")
    learner.model.train()
    with pytest.raises(ValueError, match="in training mode"):
        dsdm.estimate(learner, rows, rows)
