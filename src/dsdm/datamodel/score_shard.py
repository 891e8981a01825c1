"""Scores of a shard of rows for every estimator, proxy and target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, Subset
from dsdm.datamodel.calibration import load_calibration
from dsdm.datamodel.config import MIX, TRAITS, ScoresConfig, scored_targets, scores_forward
from dsdm.datamodel.cosines import AdamSteps, cosine_scores, score_unit
from dsdm.datamodel.directions import Direction, load_direction
from dsdm.datamodel.estimate import direction_path
from dsdm.datamodel.scoring import (
    BACKWARD_PASSES,
    FORWARD_PASSES,
    Advance,
    score_backward,
    score_forward,
)
from dsdm.lm.config import Output
from dsdm.lm.model import flops_per_token
from dsdm.lm.moments import load_moments

Columns = dict[str, np.ndarray]

WINDOW_ROWS = 1 << 16
"""Rows that are sorted by length and scored together."""
SCRATCH = ".column.npy"


@dataclass(frozen=True)
class Point:
    """A proxy at one point of its training."""

    load: Callable[[], PreTrainedModel]
    moments: Path | None = None
    """Folder of Adam's moments there, for `less`."""


@dataclass(frozen=True)
class Estimated:
    """The directions that `estimate_directions` wrote."""

    folder: Path
    """Holds one folder for each method and proxy: METHOD/PROXY."""
    methods: Sequence[str]
    weights: Mapping[str, float]
    """What each target counts for in the mix."""

    def folders(self, proxy: int) -> dict[str, Path]:
        """The folder of one proxy's directions, by method."""
        return {method: self.folder / method / str(proxy) for method in self.methods}


def score_shard(
    rows: Rows,
    estimated: Estimated,
    points: Sequence[Point],
    output: Output,
    config: ScoresConfig,
    scratch: Path,
    advance: Advance,
) -> tuple[Columns, float]:
    """One column for each `METHOD.PROXY.TARGET`, in units of the direction's spread, and the FLOPs.

    Columns are mapped files in `scratch`, so memory does not grow with the shard.

    Args:
        rows: The rows to score, shape (rows,).
        estimated: The directions to score along.
        points: The models that the directions are at, in their order.
        output: The output that the directions are of.
        config: Forward or backward, and what is scored by itself.
        scratch: Folder for the columns; the caller deletes the files that end in SCRATCH.
        advance: Called with the rows scored since the last call.
    """
    columns: Columns = {}
    num_rows = len(rows.lengths)
    flops = 0.0
    for number, point in enumerate(points):
        model = point.load()
        folders = estimated.folders(number)
        loaded = _load_directions(folders, list(estimated.weights), config, model.device)
        for start in range(0, num_rows, WINDOW_ROWS):
            window = np.arange(start, min(start + WINDOW_ROWS, num_rows))
            part = Subset(rows, window)
            score = partial(_score, model, part, loaded, folders, output, config, advance)
            if not all(TRAITS[method].is_slope for method in estimated.methods):
                score = partial(_score_adam_steps, model, part, loaded, point, config, advance)
            values, passes = score()
            for (method, target), scores in _with_mix(values, folders, estimated.weights).items():
                name = f"{method}.{number}.{target}"
                if name not in columns:
                    columns[name] = _mapped(scratch / f"{name}{SCRATCH}", num_rows)
                columns[name][window] = scores
            row_flops = flops_per_token(model, int(part.lengths.max()))
            flops += passes * float(part.lengths.sum()) * row_flops
    return columns, flops


def _load_directions(
    folders: Mapping[str, Path], targets: list[str], config: ScoresConfig, device: torch.device
) -> list[Direction]:
    paths = [
        direction_path(folder, target)
        for method, folder in folders.items()
        for target in _wanted(method, targets, config)
    ]
    return [load_direction(path, device) for path in paths if path.exists()]


def _wanted(method: str, targets: list[str], config: ScoresConfig) -> list[str]:
    """What a method scores for in its passes, so that a mix of cosines needs no adding up."""
    wanted = scored_targets(targets, config)
    if not TRAITS[method].is_slope:
        return wanted if wanted != [MIX] else targets
    return [*wanted, MIX] if config.cosine and MIX not in wanted else wanted


def _with_mix(
    values: dict[tuple[str, str], np.ndarray],
    folders: Mapping[str, Path],
    weights: Mapping[str, float],
) -> dict[tuple[str, str], np.ndarray]:
    """Adds the mix where only targets were scored: it is their weighted sum at unit spread.

    Of what is no slope it is the best target's score.
    """
    for method, folder in folders.items():
        if not TRAITS[method].is_slope:
            counted = [values[method, name] for name, weight in weights.items() if weight > 0]
            values[method, MIX] = np.max(counted, axis=0)
        elif (method, MIX) not in values:
            total = sum(weight * values[method, target] for target, weight in weights.items())
            values[method, MIX] = np.asarray(total / load_calibration(folder).mix_spread)
    return values


def _mapped(path: Path, num_rows: int) -> np.ndarray:
    return np.lib.format.open_memmap(path, "w+", np.float32, (num_rows,))


def _score(
    model: PreTrainedModel,
    rows: Rows,
    directions: Sequence[Direction],
    folders: Mapping[str, Path],
    output: Output,
    config: ScoresConfig,
    advance: Advance,
) -> tuple[dict[tuple[str, str], np.ndarray], float]:
    """Scores by method and target, and their cost in forward passes."""
    names = [(direction.method, direction.target) for direction in directions]
    if config.cosine:
        found = cosine_scores(model, directions, rows, output, config, advance)
        return dict(zip(names, found.T, strict=True)), BACKWARD_PASSES
    if not scores_forward(config, len(directions)):
        scores = score_backward(model, directions, rows, output, config, advance)
        return dict(zip(names, scores.T, strict=True)), BACKWARD_PASSES
    values = {}
    for name, direction in zip(names, directions, strict=True):
        step = load_calibration(folders[direction.method]).steps[direction.target]
        settings = step.settings(config)
        values[name] = score_forward(model, direction, rows, output, step.step, settings, advance)
    return values, FORWARD_PASSES * len(directions)


def _score_adam_steps(
    model: PreTrainedModel,
    rows: Rows,
    directions: Sequence[Direction],
    point: Point,
    config: ScoresConfig,
    advance: Advance,
) -> tuple[dict[tuple[str, str], np.ndarray], float]:
    assert point.moments is not None
    change = AdamSteps(load_moments(point.moments, model.device))
    found = score_unit(model, directions, rows, "loglik", config, change=change, advance=advance)
    names = [(direction.method, direction.target) for direction in directions]
    return dict(zip(names, found.T, strict=True)), BACKWARD_PASSES
