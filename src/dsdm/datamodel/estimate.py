"""From a trained model and targets to directions that are ready to score with."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from dsdm.config import Config
from dsdm.datamodel.calibrate import calibrate
from dsdm.datamodel.calibration import (
    Calibration,
    ForwardStep,
    load_calibration,
    load_exact,
    save_calibration,
    save_exact,
)
from dsdm.datamodel.config import MIX, ScoresConfig, example_name, scored_targets, scores_forward
from dsdm.datamodel.direction import (
    Direction,
    add_directions,
    check_direction,
    load_direction,
    save_direction,
)
from dsdm.datamodel.estimators import Estimator, Workload, known_estimator
from dsdm.datamodel.estimators.costs import FACTOR_PASSES
from dsdm.datamodel.estimators.inputs import EstimatorInputs, random_indices
from dsdm.datamodel.scoring import EXACT_PASSES, exact_scores
from dsdm.errors import NumericalError
from dsdm.learners.protocol import Examples, Learner

DEFAULT_SCORES = ScoresConfig()


@dataclass(frozen=True)
class Estimated:
    """An estimator's directions at one checkpoint, and all that scoring along them needs."""

    directions: Mapping[str, Direction]
    """By target, the mix among them. Of unit spread: the standard deviation of the exact scores of
    the calibration examples is 1, of several checkpoints that of their mean."""
    calibration: Calibration
    calibration_examples: Int[np.ndarray, " examples"]
    """Their sorted numbers in the pool."""
    exact: Mapping[str, Float[np.ndarray, " examples"]]
    """By target, the mix apart: the exact scores of the calibration examples."""
    flops: float = 0.0
    """What it took to make; 0 where it was read from a file."""


def estimate(
    inputs: EstimatorInputs,
    estimator: str,
    settings: Config | None = None,
    scores: ScoresConfig = DEFAULT_SCORES,
) -> Estimated:
    """The directions of one estimator at one checkpoint: for each target and for their mix.

    Args:
        inputs: The model and what directions are estimated of.
        estimator: One that needs no training.
        settings: Its section of the settings; None: its defaults.
        scores: How candidates will be scored, which decides for what there are directions and
            which of them get a step for forward scores.

    Raises:
        NumericalError: a gradient, a direction or a score is NaN, infinite or 0 everywhere.
    """
    known, settings = _known(estimator, settings)
    if known.needs_training:
        raise ValueError(f"`{estimator}` is estimated along a training: give its checkpoints")
    asked = dataclasses.replace(inputs, targets=_asked(inputs, scores))
    directions = _directions(known.estimate(asked, settings), estimator, inputs)
    (made,) = _at_unit_spread([inputs], [directions], scores, [0]).values()
    return dataclasses.replace(made, flops=_estimation_flops(asked, known, settings) + made.flops)


def estimate_along_training(
    checkpoints: Sequence[EstimatorInputs],
    estimator: str,
    settings: Config | None = None,
    scores: ScoresConfig = DEFAULT_SCORES,
    wanted: Collection[int] | None = None,
) -> dict[int, Estimated]:
    """The directions at the checkpoints of one training, by their numbers.

    As `estimate`, but it is the mean of an example's scores over the checkpoints that has unit
    spread: what each counts for is part of the estimate.

    Args:
        checkpoints: The model at each of its checkpoints, in order; the last has the `training`.
        estimator: One that needs a training.
        settings: As `estimate`.
        scores: As `estimate`.
        wanted: The numbers of checkpoints whose directions are returned; None: all.
    """
    known, settings = _known(estimator, settings)
    taken: list[float] = []
    last = checkpoints[-1]
    asked = dataclasses.replace(last, targets=_asked(last, scores), count_flops=taken.append)
    found = known.estimate(asked, settings)
    directions = [
        _directions(at, estimator, own) for at, own in zip(found, checkpoints, strict=True)
    ]
    numbers = range(len(checkpoints)) if wanted is None else wanted
    made = _at_unit_spread(checkpoints, directions, scores, numbers)
    # What all of them took together, as the seconds are.
    flops = sum(taken) + sum(one.flops for one in made.values())
    return {number: dataclasses.replace(one, flops=flops) for number, one in made.items()}


def save_estimated(estimated: Estimated, folder: Path) -> None:
    """Writes directions, calibration and exact scores into a folder."""
    for target, direction in estimated.directions.items():
        save_direction(direction, direction_path(folder, target))
    save_exact(folder, estimated.calibration_examples, estimated.exact)
    save_calibration(folder, estimated.calibration)


def load_estimated(
    folder: Path, targets: Collection[str], device: torch.device | str = "cpu"
) -> Estimated:
    """What `save_estimated` wrote, with the directions of some targets, MIX for their mix.

    Those that are not there are left out: a target may have fewer examples than are asked for.
    """
    paths = {target: direction_path(folder, target) for target in targets}
    directions = {t: load_direction(path, device) for t, path in paths.items() if path.exists()}
    examples, exact = load_exact(folder)
    return Estimated(directions, load_calibration(folder), examples, exact)


def direction_path(folder: Path, target: str) -> Path:
    """Where the direction for a target, or for the mix, is in a finished folder."""
    return folder / f"{target}.safetensors"


def _known(estimator: str, settings: Config | None) -> tuple[Estimator, Config]:
    known = known_estimator(estimator)
    return known, known.settings() if settings is None else settings


def _asked(inputs: EstimatorInputs, scores: ScoresConfig) -> dict[str, Examples]:
    """What each direction is for: the targets, and those of their examples that are scored too."""
    learner, targets = inputs.learner, dict(inputs.targets)
    for name, examples in inputs.targets.items():
        for i in range(min(scores.per_example, learner.num(examples))):
            targets[example_name(name, i)] = learner.take(examples, np.array([i]))
    return targets


def _directions(
    found: Mapping[str, Mapping[str, torch.Tensor]], estimator: str, inputs: EstimatorInputs
) -> dict[str, Direction]:
    directions = {
        target: Direction(tensors, estimator, target, inputs.fingerprint)
        for target, tensors in found.items()
    }
    for direction in directions.values():
        check_direction(direction)
    return directions


def _at_unit_spread(
    checkpoints: Sequence[EstimatorInputs],
    directions: Sequence[Mapping[str, Direction]],
    scores: ScoresConfig,
    wanted: Collection[int],
) -> dict[int, Estimated]:
    """Directions at one checkpoint or several, and their mix, with the steps to score them by.

    Of several it is the mean of an example's scores at all of them that has unit spread.
    """
    last = checkpoints[-1]
    learner, weights = last.learner, last.weights or dict.fromkeys(last.targets, 1.0)
    drawn = random_indices(learner.num(last.pool), scores.calibration_rows, last.calibration_seed)
    examples = learner.take(last.pool, drawn)
    exact = [
        {
            target: exact_scores(one.scorer or one.learner, direction, examples)
            for target, direction in own.items()
        }
        for one, own in zip(checkpoints, directions, strict=True)
    ]
    means = {target: np.mean([one[target] for one in exact], axis=0) for target in exact[0]}
    spreads = {target: float(values.std()) for target, values in means.items()}
    for target, spread in spreads.items():
        if not spread > 0:
            raise NumericalError(
                f"direction {directions[0][target].estimator} for {target}: its scores on "
                f"{len(drawn)} rows of the pool are all the same. It can't rank candidates."
            )
    unit = {target: values / spreads[target] for target, values in means.items()}
    mix_spread = float(np.std(sum(weight * unit[target] for target, weight in weights.items())))
    if not mix_spread > 0:
        raise NumericalError("the targets' directions cancel each other: set their weights.")
    made = {}
    for number in wanted:
        own, scorer = directions[number], checkpoints[number].scorer or checkpoints[number].learner
        scaled = {target: one.scaled(1 / spreads[target]) for target, one in own.items()}
        shares = [weight / mix_spread for weight in weights.values()]
        scaled[MIX] = add_directions([scaled[target] for target in weights], shares, MIX)
        check_direction(scaled[MIX])
        steps, passes = _forward_steps(scorer, scaled, list(last.targets), examples, scores)
        passes += EXACT_PASSES * len(own)
        made[number] = Estimated(
            scaled,
            Calibration(mix_spread, spreads, steps),
            drawn,
            {target: values / spreads[target] for target, values in exact[number].items()},
            passes * _pass_flops(scorer, examples),
        )
    return made


def _forward_steps(
    scorer: Learner,
    directions: Mapping[str, Direction],
    targets: list[str],
    examples: Examples,
    scores: ScoresConfig,
) -> tuple[dict[str, ForwardStep], float]:
    """How those are scored that are scored forward, and the forward passes that it took."""
    asked = scored_targets(targets, scores)
    if not scores_forward(scores, len(asked)):
        return {}, 0.0
    found = {
        target: calibrate(scorer, directions[target], examples, scores)
        for target in asked
        if target in directions  # a target may have fewer examples than are asked for
    }
    steps = {target: one.forward for target, one in found.items()}
    return steps, sum(one.passes for one in found.values())


def _pass_flops(learner: Learner, examples: Examples) -> float:
    """Of one forward pass over examples."""
    sizes = learner.sizes(examples)
    return float(sizes.sum()) * learner.pass_flops(int(sizes.max()))


def _estimation_flops(inputs: EstimatorInputs, known: Estimator, settings: Config) -> float:
    """Of the targets' gradients, the passes over the sample, and what is made of them."""
    learner = inputs.learner
    sample = learner.sizes(inputs.sample_of(getattr(settings, "curvature_rows", 0)))
    targets = [learner.sizes(examples) for examples in inputs.targets.values()]
    largest = max(int(sizes.max()) for sizes in (sample, *targets) if len(sizes))
    size = float(sample.sum())
    workload = Workload(inputs.layers, len(sample), size, num_directions=len(targets))
    cost = known.cost(settings, workload)
    passes = learner.gradient_passes() * sum(float(sizes.sum()) for sizes in targets)
    passes += FACTOR_PASSES * cost.sample_passes * size
    return passes * learner.pass_flops(largest) + cost.flops
