"""From a trained proxy and targets to directions that are ready to score with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from transformers import PreTrainedModel

from dsdm.artifacts import Draft, write_json
from dsdm.data.batches import Rows, Subset
from dsdm.datamodel.calibration import save_exact
from dsdm.datamodel.config import (
    LESS,
    MIX,
    DirectionsConfig,
    ScoresConfig,
    example_name,
    scored_targets,
    scores_forward,
)
from dsdm.datamodel.cosines import AdamSteps, score_unit
from dsdm.datamodel.directions import Direction, add_directions, check_direction, save_direction
from dsdm.datamodel.estimators import ESTIMATORS, Problem
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

CALIBRATION = "calibration.json"


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
    if method == LESS:
        _save_as_they_are(question, directions, config, scores, draft)
        return
    # The same rows for every proxy: their scores are compared.
    rows = random_rows(question.pool, scores.calibration_rows, seed=config.seed + 1)
    directions, exact = _to_unit_spread(question, directions, rows, config, scores)
    mix, spread_of_mix = _mix(directions, exact, question.weights)
    calibrations = _calibrate(question.model, [*directions, mix], rows, config, scores)
    steps = {n: {"step": c.step, "correlation": c.correlation} for n, c in calibrations.items()}
    passes = EXACT_PASSES * len(directions) + sum(c.passes for c in calibrations.values())
    row_flops = flops_per_token(question.model, int(rows.lengths.max()))
    draft.flops += passes * float(rows.lengths.sum()) * row_flops
    for direction in [*directions, mix]:
        save_direction(direction, direction_path(draft.path, direction.target))
    save_exact(draft.path, rows.indices, exact)
    write_json(draft.path / CALIBRATION, {"mix_spread": spread_of_mix, "steps": steps})
    draft.counts["directions"] = len(directions) + 1


def _save_as_they_are(
    question: Question,
    directions: list[Direction],
    config: DirectionsConfig,
    scores: ScoresConfig,
    draft: Draft,
) -> None:
    """Writes directions whose length means something, with their scores of the calibration rows."""
    assert question.moments is not None
    rows = random_rows(question.pool, scores.calibration_rows, seed=config.seed + 1)
    change = AdamSteps(load_moments(question.moments, question.model.device))
    found = score_unit(question.model, directions, rows, "loglik", scores, change=change)
    row_flops = flops_per_token(question.model, int(rows.lengths.max()))
    draft.flops += BACKWARD_PASSES * float(rows.lengths.sum()) * row_flops
    for direction in directions:
        save_direction(direction, direction_path(draft.path, direction.target))
    exact = {d.target: column for d, column in zip(directions, found.T, strict=True)}
    save_exact(draft.path, rows.indices, exact)
    write_json(draft.path / CALIBRATION, {"mix_spread": 1.0, "steps": {}})
    draft.counts["directions"] = len(directions)


def direction_path(folder: Path, target: str) -> Path:
    """Where the direction for a target, or for the mix, is in a finished folder."""
    return folder / f"{target}.safetensors"


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
    targets = dict(question.targets)
    for name, rows in question.targets.items():
        for i in range(min(scores.per_example, len(rows.lengths))):
            targets[example_name(name, i)] = Subset(rows, np.array([i]))
    num_tokens = 0

    def count(tokens: int) -> None:
        nonlocal num_tokens
        num_tokens += tokens
        advance(tokens)

    layers = moved_layers(question.model, embeddings=config.embeddings)
    problem = Problem(question.model, layers, targets, sample, count)
    estimated = ESTIMATORS[method](problem, config)
    longest = max(int(rows.lengths.max()) for rows in (sample, *question.targets.values()))
    passes = training_passes(question.model)
    draft.flops += passes * num_tokens * flops_per_token(question.model, longest)
    directions = [
        Direction(tensors, method, target, question.proxy) for target, tensors in estimated.items()
    ]
    for direction in directions:
        check_direction(direction)
    return directions


def _to_unit_spread(
    question: Question,
    directions: list[Direction],
    rows: Subset,
    config: DirectionsConfig,
    scores: ScoresConfig,
) -> tuple[list[Direction], dict[str, np.ndarray]]:
    scaled, exact = [], {}
    for direction in directions:
        values = exact_scores(question.model, direction, rows, config.output, scores.batch_tokens)
        spread = float(values.std())
        if not spread > 0:
            raise NumericalError(
                f"direction {direction.method} for {direction.target}: its scores on "
                f"{len(values)} rows of the pool are all the same. It can't rank candidates."
            )
        scaled.append(direction.scaled(1 / spread))
        exact[direction.target] = values / spread
    return scaled, exact


def _mix(
    directions: list[Direction], exact: dict[str, np.ndarray], weights: Mapping[str, float]
) -> tuple[Direction, float]:
    """The weighted sum at unit spread, and the spread that it had."""
    parts = [direction for direction in directions if direction.target in weights]
    values = sum(weights[d.target] * exact[d.target] for d in parts)
    spread = float(np.std(values))
    if not spread > 0:
        raise NumericalError("the targets' directions cancel each other: set their weights.")
    factors = [weights[d.target] / spread for d in parts]
    return add_directions(parts, factors, MIX), spread


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
