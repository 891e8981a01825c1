"""Scores of a shard of rows for every estimator, proxy and target."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from dsdm.data.batches import Rows
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import load_direction
from dsdm.datamodel.estimate import CALIBRATION, MIX, direction_path, scored_targets
from dsdm.datamodel.scoring import Advance, score_backward, score_forward, scores_forward
from dsdm.lm.config import Output
from dsdm.lm.model import flops_per_token

Columns = dict[str, np.ndarray]


def score_shard(
    rows: Rows,
    directions: Path,
    methods: Sequence[str],
    proxies: Sequence[Callable[[], PreTrainedModel]],
    weights: dict[str, float],
    output: Output,
    config: ScoresConfig,
    advance: Advance,
) -> tuple[Columns, float]:
    """One column for each `METHOD.PROXY.TARGET`, in units of the direction's spread, and the FLOPs.

    Args:
        rows: The rows to score, shape (rows,).
        directions: The folder of METHOD/PROXY folders that `estimate_directions` wrote.
        methods: Estimators to score with.
        proxies: One function for each proxy that loads it.
        weights: What each target counts for in the mix.
        output: The output that the directions are of.
        config: Forward or backward, and what is scored by itself.
        advance: Called with the rows scored since the last call.
    """
    columns: Columns = {}
    flops = 0.0
    for number, load_proxy in enumerate(proxies):
        model = load_proxy()
        forward_flops = float(rows.lengths.sum()) * flops_per_token(model, int(rows.lengths.max()))
        for method in methods:
            folder = directions / method / str(number)
            values, passes = _score(model, rows, folder, list(weights), output, config, advance)
            if MIX not in values:
                spread = json.loads((folder / CALIBRATION).read_text())["mix_spread"]
                values[MIX] = sum(w * values[t] for t, w in weights.items()) / spread
            columns |= {f"{method}.{number}.{target}": v for target, v in values.items()}
            flops += passes * forward_flops
    return columns, flops


def _score(
    model: PreTrainedModel,
    rows: Rows,
    folder: Path,
    targets: list[str],
    output: Output,
    config: ScoresConfig,
    advance: Advance,
) -> tuple[Columns, float]:
    """Scores by target, and the cost in forward passes."""
    wanted = [t for t in scored_targets(targets, config) if direction_path(folder, t).exists()]
    loaded = [load_direction(direction_path(folder, t), model.device) for t in wanted]
    if not scores_forward(config, len(wanted)):
        scores = score_backward(model, loaded, rows, output, config, advance)
        # A backward pass without weight gradients costs about a forward pass, each direction less.
        return dict(zip(wanted, scores.T, strict=True)), 2.0 + len(wanted)
    steps = json.loads((folder / CALIBRATION).read_text())["steps"]
    values = {
        direction.target: score_forward(
            model, direction, rows, output, steps[direction.target]["step"], config, advance
        )
        for direction in loaded
    }
    return values, 2.0 * len(wanted)
