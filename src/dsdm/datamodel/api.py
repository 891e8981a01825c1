"""The door for those who have a model: directions of targets, and scores along them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dsdm.config import parse_config
from dsdm.datamodel.calibrate import calibrate
from dsdm.datamodel.config import MIX, ScoresConfig
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimate import estimate as estimate_at
from dsdm.datamodel.estimate import estimate_along_training
from dsdm.datamodel.estimators import known_estimator
from dsdm.datamodel.estimators.inputs import EstimatorInputs, random_indices
from dsdm.datamodel.scoring import cosine_scores, score_backward, score_forward
from dsdm.learners.protocol import Examples, Learner, Training
from dsdm.selection import Scores

Mode = Literal["auto", "forward", "backward", "cosine"]

FORWARD_FROM = 10
"""Examples, for each one that a forward step is set on, from which on forward scores are cheaper
than exact ones."""


def estimate(
    learners: Learner | Sequence[Learner],
    targets: Examples | Mapping[str, Examples],
    pool: Examples,
    method: str = "ekfac",
    *,
    weights: Mapping[str, float] | None = None,
    training: Training | None = None,
    seed: int = 0,
    **settings: Any,
) -> Direction | list[Direction]:
    """The direction that makes a model better at the targets; a list of them for several models.

    Its scores of random examples of the pool have standard deviation 1. Give it to `score`.

    Args:
        learners: A model trained on the pool or a part of it, or several such proxies; of a method
            that follows a training, the model at each of its checkpoints.
        targets: What to be good at: examples, or by name those of several targets.
        pool: What is chosen from.
        method: The estimator's name.
        weights: What each of several targets counts for; None: all the same.
        training: The training that led to the models, where the method follows it.
        seed: Draws samples of the pool.
        settings: Those of the estimator, such as `damping=0.1`.

    Raises:
        ConfigError: a setting is not one of the estimator's.
        ValueError: there is no such estimator, or it needs a training.
        NumericalError: a gradient or direction can't be used.
    """
    each = [learners] if isinstance(learners, Learner) else list(learners)
    known = known_estimator(method)
    own = parse_config(settings, known.settings, where=f"{method}")
    scores = ScoresConfig(mode="backward")
    inputs = []
    for number, learner in enumerate(each):
        if learner.model.training:
            raise ValueError("the model is in training mode: call its `eval()` first")
        named = targets if isinstance(targets, Mapping) else {"target": targets}
        inputs.append(
            EstimatorInputs(
                learner=learner,
                targets={name: _read(learner, examples) for name, examples in named.items()},
                pool=_read(learner, pool),
                weights=weights,
                seed=seed + number,
                calibration_seed=seed + len(each),
                training=training,
            )
        )
    if known.needs_training:
        found = list(estimate_along_training(inputs, method, own, scores).values())
    else:
        found = [estimate_at(one, method, own, scores) for one in inputs]
    directions = [one.directions[MIX] for one in found]
    return directions[0] if isinstance(learners, Learner) else directions


def score(
    learners: Learner | Sequence[Learner],
    directions: Direction | Sequence[Direction],
    examples: Examples,
    mode: Mode = "auto",
) -> Scores:
    """The scores of examples along a direction, higher = keep; of several models their mean.

    Args:
        learners: As given to `estimate`.
        directions: What `estimate` returned for them.
        examples: The candidates.
        mode: `backward` takes exact slopes, `forward` cheaper ones, `cosine` leaves the length of
            a candidate's gradient out; `auto` takes forward scores of many candidates.

    Raises:
        ValueError: there is not one direction for each learner.
        NumericalError: a score is NaN or infinite, or forward scores disagree with exact ones.
    """
    each = [learners] if isinstance(learners, Learner) else list(learners)
    along = [directions] if isinstance(directions, Direction) else list(directions)
    found = [
        _values(learner, direction, _read(learner, examples), mode)
        for learner, direction in zip(each, along, strict=True)
    ]
    values = np.mean(found, axis=0)
    sizes = each[0].sizes(examples)
    return Scores(values, sizes, method=along[0].estimator, target=along[0].target)


def _read(learner: Learner, examples: Examples) -> Examples:
    """The examples, all of them, in the form in which the learner keeps them."""
    return learner.take(examples, np.arange(learner.num(examples)))


def _values(
    learner: Learner, direction: Direction, examples: Examples, mode: Mode
) -> Float[np.ndarray, " examples"]:
    config = ScoresConfig()
    count = learner.num(examples)
    if mode == "auto":
        mode = "forward" if count >= FORWARD_FROM * config.calibration_rows else "backward"
    if mode == "cosine":
        return cosine_scores(learner, [direction], examples)[:, 0]
    if mode == "backward":
        return score_backward(learner, [direction], examples)[:, 0]
    some = learner.take(examples, random_indices(count, config.calibration_rows, seed=0))
    step = calibrate(learner, direction, some, config).forward
    return score_forward(learner.using(precision=step.precision), direction, examples, step.step)
