"""Metagradients: the derivative of a target's output in a candidate's weight, through a training.

MAGIC (Ilyas & Engstrom 2025, arXiv:2504.16430). A candidate x that counted for w more at step t
would add w grad l(x; theta_t) to the step's gradient, so its effect on the output f of the trained
weights is

    df/dw = sum_t <df/dg_t, grad l(x; theta_t)>

where g_t is the gradient of step t, and df/dg_t what a `Replay` finds by following the training
backwards. It needs no model of the curvature, and is of one training, with its own order of
examples.

Differs from the paper, whose sum is over the steps that x was trained at: here x might have been
trained at any step, so that examples of the whole pool are scored, and the derivatives of the steps
nearest to a checkpoint are added up to one direction there; and the first steps are left out, where
the derivatives grow without bound.
"""

import numpy as np
import torch

from dsdm.datamodel.estimators.inputs import EstimatorInputs, Tensors
from dsdm.datamodel.estimators.metagradient import MetagradientConfig
from dsdm.datamodel.gradients import mean_gradient
from dsdm.errors import ConfigError


def metagradient_directions(
    inputs: EstimatorInputs, settings: MetagradientConfig
) -> list[dict[str, Tensors]]:
    """For each checkpoint of the training, in order, each target's direction there.

    Raises:
        ConfigError: a checkpoint is before the part of the training that is followed back.
    """
    training = inputs.training
    assert training is not None, "metagradient is estimated of a training"
    replay = training.replay(settings.tail, settings.smoothing)
    ends = np.array(replay.checkpoints(training.num_checkpoints))
    if ends[0] <= replay.first_step:
        raise ConfigError(
            f"directions.metagradient.tail: the training is followed back to its step "
            f"{replay.first_step}, and the first of {len(ends)} checkpoints is at step {ends[0]}. "
            "Keep fewer (proxies.checkpoints), or follow more of it."
        )
    learner = inputs.learner.using(model=replay.train(inputs.advance))
    trained = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    gradients = [mean_gradient(learner, rows, trained) for rows in inputs.targets.values()]
    moved = [name for layer in inputs.layers for name in layer.parameter_names]
    sums: list[dict[str, Tensors]] = [{target: {} for target in inputs.targets} for _ in ends]
    for influence in replay.influences(gradients, inputs.advance):
        at = sums[int(np.abs(ends - influence.step - 1).argmin())]
        for target, derivatives in zip(inputs.targets, influence.derivatives, strict=True):
            for name in moved:
                # A candidate's output rises as its loss, of which the step takes the mean, falls.
                change = derivatives[name] / -influence.counted
                at[target][name] = at[target].get(name, torch.zeros_like(change)) + change
    inputs.count_flops(replay.flops(len(inputs.targets)))
    dtype = inputs.dtype
    return [{t: {n: x.to(dtype) for n, x in sum_.items()} for t, sum_ in at.items()} for at in sums]
