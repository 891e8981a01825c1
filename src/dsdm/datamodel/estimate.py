"""From a trained proxy and targets to directions that are ready to score with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from transformers import PreTrainedModel

from dsdm.artifacts import Draft
from dsdm.data.batches import Rows, Subset
from dsdm.datamodel.calibration import (
    ForwardStep,
    SavedCalibration,
    save_calibration,
    save_exact,
)
from dsdm.datamodel.config import (
    METAGRADIENT,
    MIX,
    TRAITS,
    DirectionsConfig,
    ScoresConfig,
    example_name,
    scored_targets,
    scores_forward,
)
from dsdm.datamodel.cosines import AdamSteps, score_unit
from dsdm.datamodel.curvature_costs import FACTOR_PASSES, curvature_flops, sample_passes
from dsdm.datamodel.directions import Direction, add_directions, check_direction, save_direction
from dsdm.datamodel.estimators import ESTIMATORS, Problem, metagradient_directions
from dsdm.datamodel.layers import moved_layers
from dsdm.datamodel.scoring import (
    BACKWARD_PASSES,
    EXACT_PASSES,
    Calibration,
    calibrate,
    exact_scores,
    random_rows,
)
from dsdm.errors import NumericalError
from dsdm.lm.model import check_finite, flops_per_token, training_passes
from dsdm.lm.moments import load_moments
from dsdm.lm.replay import Replay


@dataclass(frozen=True)
class Question:
    """A proxy and what is asked of it."""

    model: PreTrainedModel
    proxy: str
    """The proxy's fingerprint."""
    targets: Mapping[str, Rows]
    """The fit part of each target."""
    weights: Mapping[str, float]
    """What each target counts for in the mix."""
    pool: Rows
    """Where the curvature's sample and the calibration rows are drawn from."""
    seed: int = 0
    """Draws the curvature's sample, the projection and sampled labels. One for each proxy, so that
    the mean over proxies averages their luck too."""
    moments: Path | None = None
    """Folder of Adam's moments at this point of the training, for `less`."""


def estimate_directions(
    question: Question,
    method: str,
    config: DirectionsConfig,
    scores: ScoresConfig,
    draft: Draft,
    advance: Callable[[int], None],
) -> None:
    """Writes one direction for each target and one for their mix, each of unit spread.

    The spread of a direction is the standard deviation of its exact scores on the calibration
    rows; `less` has no mix, and its directions stay as long as they are. Beside the directions
    stand `calibration.json` (spreads, and for each direction that will be scored forward its step
    and agreement with the exact derivative) and `calibration.npz` (the rows and their exact
    scores).
    """
    check_finite(question.model)
    directions = _estimate(question, method, config, scores, draft, advance)
    if not TRAITS[method].is_slope:
        _save_as_they_are(question, directions, config, scores, draft)
        return
    _save_at_unit_spread([question], [directions], config, scores, {0: draft})


def estimate_of_training(
    replay: Replay,
    questions: Sequence[Question],
    config: DirectionsConfig,
    scores: ScoresConfig,
    drafts: Mapping[int, Draft],
    advance: Callable[[int], None],
) -> None:
    """Writes the metagradient's directions at the checkpoints of one proxy.

    As `estimate_directions` does, but it is the mean of a candidate's scores over the checkpoints
    that has unit spread: what each counts for is part of the estimate.

    Args:
        replay: The proxy's training, not yet run.
        questions: The proxy at each of its checkpoints, in order, and what is asked of it.
        config: How directions are estimated.
        scores: How candidates will be scored.
        drafts: Where to write, by the checkpoint's number; only these are written.
        advance: Called with the tokens that were trained on or followed back.
    """
    last = questions[-1]
    targets = _asked(last, scores)
    found = metagradient_directions(replay, targets, len(questions), config, advance)
    points = [
        [Direction(tensors, METAGRADIENT, target, one.proxy) for target, tensors in of.items()]
        for one, of in zip(questions, found, strict=True)
    ]
    for direction in (direction for directions in points for direction in directions):
        check_direction(direction)
    _save_at_unit_spread(questions, points, config, scores, drafts)
    flops = (
        replay.passes(len(targets))
        * replay.num_tokens
        * flops_per_token(last.model, replay.longest)
    )
    # What all of them took together, as the seconds are.
    flops += sum(draft.flops for draft in drafts.values())
    for draft in drafts.values():
        draft.flops = flops


def _save_at_unit_spread(
    questions: Sequence[Question],
    points: Sequence[Sequence[Direction]],
    config: DirectionsConfig,
    scores: ScoresConfig,
    drafts: Mapping[int, Draft],
) -> None:
    """Writes directions at one point or several, and their mix, with the steps to score them by.

    Of several it is the mean of a row's scores at all points that has unit spread.
    """
    last = questions[-1]
    rows = _calibration_rows(last.pool, config, scores)
    exact = [
        _exact(one.model, directions, rows, config, scores)
        for one, directions in zip(questions, points, strict=True)
    ]
    means = {target: np.mean([one[target] for one in exact], axis=0) for target in exact[0]}
    spreads = _spreads(means, points[0][0].method)
    unit = {target: values / spreads[target] for target, values in means.items()}
    spread_of_mix = _spread_of_mix(unit, last.weights)
    for number, draft in drafts.items():
        model = questions[number].model
        directions = [d.scaled(1 / spreads[d.target]) for d in points[number]]
        mix = _mix(directions, last.weights, spread_of_mix)
        check_direction(mix)
        calibrations = _calibrate(model, [*directions, mix], rows, config, scores)
        steps = {target: found.forward for target, found in calibrations.items()}
        passes = EXACT_PASSES * len(directions) + sum(c.passes for c in calibrations.values())
        draft.flops += passes * _flops_of(model, rows)
        own = {target: values / spreads[target] for target, values in exact[number].items()}
        _write(draft, [*directions, mix], rows, own, spread_of_mix, steps)


def _save_as_they_are(
    question: Question,
    directions: list[Direction],
    config: DirectionsConfig,
    scores: ScoresConfig,
    draft: Draft,
) -> None:
    """Writes directions whose length means something, with their scores of the calibration rows."""
    assert question.moments is not None
    rows = _calibration_rows(question.pool, config, scores)
    change = AdamSteps(load_moments(question.moments, question.model.device))
    found = score_unit(question.model, directions, rows, "loglik", scores, change=change)
    draft.flops += BACKWARD_PASSES * _flops_of(question.model, rows)
    exact = {d.target: column for d, column in zip(directions, found.T, strict=True)}
    _write(draft, directions, rows, exact, 1.0, {})


def _write(
    draft: Draft,
    directions: Sequence[Direction],
    rows: Subset,
    exact: Mapping[str, np.ndarray],
    spread_of_mix: float,
    steps: Mapping[str, ForwardStep],
) -> None:
    """What a finished folder holds: directions, their exact scores of `rows`, how to score."""
    for direction in directions:
        save_direction(direction, direction_path(draft.path, direction.target))
    save_exact(draft.path, rows.indices, exact)
    save_calibration(draft.path, SavedCalibration(spread_of_mix, steps))
    draft.counts["directions"] = len(directions)


def _flops_of(model: PreTrainedModel, rows: Subset) -> float:
    """Of one forward pass over rows."""
    return float(rows.lengths.sum()) * flops_per_token(model, int(rows.lengths.max()))


def direction_path(folder: Path, target: str) -> Path:
    """Where the direction for a target, or for the mix, is in a finished folder."""
    return folder / f"{target}.safetensors"


def _estimation_flops(problem: Problem, method: str, config: DirectionsConfig) -> float:
    """Of the targets' gradients, the passes over the sample, and what is made of them."""
    sample, targets = problem.sample.lengths, [r.lengths for r in problem.targets.values()]
    longest = max(int(lengths.max()) for lengths in (sample, *targets))
    tokens = float(sample.sum())
    passes = training_passes(problem.model) * sum(float(lengths.sum()) for lengths in targets)
    passes += FACTOR_PASSES * sample_passes(method, problem.layers, tokens) * tokens
    products = curvature_flops(method, problem.layers, config, tokens=tokens, rows=len(sample))
    return passes * flops_per_token(problem.model, longest) + products


def _estimate(
    question: Question,
    method: str,
    config: DirectionsConfig,
    scores: ScoresConfig,
    draft: Draft,
    advance: Callable[[int], None],
) -> list[Direction]:
    config = msgspec.structs.replace(config, seed=question.seed)
    sample = random_rows(question.pool, config.curvature_rows, seed=question.seed)
    targets = _asked(question, scores)
    layers = moved_layers(question.model, embeddings=config.embeddings)
    problem = Problem(question.model, layers, targets, sample, advance)
    estimated = ESTIMATORS[method](problem, config)
    draft.flops += _estimation_flops(problem, method, config)
    directions = [
        Direction(tensors, method, target, question.proxy) for target, tensors in estimated.items()
    ]
    for direction in directions:
        check_direction(direction)
    return directions


def _asked(question: Question, scores: ScoresConfig) -> dict[str, Rows]:
    """What each direction is for: the targets, and those of their examples that are scored too."""
    targets = dict(question.targets)
    for name, rows in question.targets.items():
        for i in range(min(scores.per_example, len(rows.lengths))):
            targets[example_name(name, i)] = Subset(rows, np.array([i]))
    return targets


def _calibration_rows(pool: Rows, config: DirectionsConfig, scores: ScoresConfig) -> Subset:
    """The same for every proxy: their scores are compared."""
    return random_rows(pool, scores.calibration_rows, seed=config.seed + 1)


def _exact(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Subset,
    config: DirectionsConfig,
    scores: ScoresConfig,
) -> dict[str, np.ndarray]:
    """The exact scores of rows, by target."""
    return {
        direction.target: exact_scores(model, direction, rows, config.output, scores.batch_tokens)
        for direction in directions
    }


def _spreads(exact: Mapping[str, np.ndarray], method: str) -> dict[str, float]:
    """The standard deviation of each target's scores."""
    spreads = {target: float(values.std()) for target, values in exact.items()}
    for target, spread in spreads.items():
        if not spread > 0:
            raise NumericalError(
                f"direction {method} for {target}: its scores on "
                f"{len(exact[target])} rows of the pool are all the same. It can't rank candidates."
            )
    return spreads


def _spread_of_mix(exact: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> float:
    """The standard deviation of the weighted sum of scores that have unit spread."""
    spread = float(np.std(sum(weight * exact[target] for target, weight in weights.items())))
    if not spread > 0:
        raise NumericalError("the targets' directions cancel each other: set their weights.")
    return spread


def _mix(directions: Sequence[Direction], weights: Mapping[str, float], spread: float) -> Direction:
    """The weighted sum of the targets' directions, over the spread of its scores."""
    parts = [direction for direction in directions if direction.target in weights]
    return add_directions(parts, [weights[d.target] / spread for d in parts], MIX)


def _calibrate(
    model: PreTrainedModel,
    directions: list[Direction],
    rows: Subset,
    config: DirectionsConfig,
    scores: ScoresConfig,
) -> dict[str, Calibration]:
    """Of each direction that will be scored forward."""
    targets = [d.target for d in directions if d.target != MIX and "[" not in d.target]
    wanted = scored_targets(targets, scores)
    if not scores_forward(scores, len(wanted)):
        return {}
    return {
        direction.target: calibrate(model, direction, rows, config.output, scores)
        for direction in directions
        if direction.target in wanted
    }
