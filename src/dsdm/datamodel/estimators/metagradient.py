"""Metagradients: the derivative of a target's output in a candidate's weight, through a training.

MAGIC (Ilyas & Engstrom 2025, arXiv:2504.16430). A candidate x that counted for w more at step t
would add w grad l(x; theta_t) to the step's gradient, so its effect on the output f of the trained
weights is

    df/dw = sum_t <df/dg_t, grad l(x; theta_t)>

where g_t is the gradient of step t, and df/dg_t what `lm.replay` finds by following the training
backwards. It needs no model of the curvature, and is of one training, with its own order of rows.

Differs from the paper, whose sum is over the steps that x was trained at: here x might have been
trained at any step, so that rows of the whole pool are scored, and the derivatives of the steps
nearest to a checkpoint are added up to one direction there; and the first steps are left out, where
the derivatives grow without bound.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from transformers import PreTrainedModel

from dsdm.data.batches import Rows
from dsdm.datamodel.config import DirectionsConfig
from dsdm.datamodel.estimators.problem import Tensors, target_gradient
from dsdm.datamodel.layers import moved_layers
from dsdm.errors import ConfigError
from dsdm.lm.replay import Replay
from dsdm.lm.schedule import kept_steps


def trained_gradients(
    model: PreTrainedModel, targets: Mapping[str, Rows], config: DirectionsConfig
) -> list[Tensors]:
    """Each target's mean gradient in all parameters that training moves."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [target_gradient(model, rows, config, names) for rows in targets.values()]


def metagradient_directions(
    replay: Replay,
    targets: Mapping[str, Rows],
    num_checkpoints: int,
    config: DirectionsConfig,
    advance: Callable[[int], None],
) -> list[dict[str, Tensors]]:
    """For each checkpoint of the training, in order, each target's direction there.

    Raises:
        ConfigError: a checkpoint is before the part of the training that is followed back.
    """
    ends = np.array(kept_steps(replay.num_steps, num_checkpoints))
    if ends[0] <= replay.first_step:
        raise ConfigError(
            f"directions.tail: the training is followed back to its step {replay.first_step}, and "
            f"the first of {num_checkpoints} checkpoints is at step {ends[0]}. Keep fewer "
            "(proxies.checkpoints), or follow more of it."
        )
    model = replay.train(advance)
    gradients = trained_gradients(model, targets, config)
    layers = moved_layers(model, embeddings=config.embeddings)
    moved = [name for layer in layers for name in layer.parameter_names]
    sums: list[dict[str, Tensors]] = [{target: {} for target in targets} for _ in ends]
    for influence in replay.influences(gradients, advance):
        at = sums[int(np.abs(ends - influence.step - 1).argmin())]
        for target, derivatives in zip(targets, influence.derivatives, strict=True):
            for name in moved:
                # A candidate's output rises as its loss, of which the step takes the mean, falls.
                change = derivatives[name] / -influence.counted
                at[target][name] = at[target].get(name, torch.zeros_like(change)) + change
    dtype = model.dtype
    return [{t: {n: x.to(dtype) for n, x in sum_.items()} for t, sum_ in at.items()} for at in sums]
