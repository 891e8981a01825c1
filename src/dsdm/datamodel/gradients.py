"""Mean gradients of targets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsdm.errors import NumericalError
from dsdm.learners.protocol import Examples, Learner


def mean_gradient(
    learner: Learner, examples: Examples, parameter_names: Sequence[str]
) -> dict[str, Tensor]:
    """The mean of the examples' gradients of what directions raise, by parameter name.

    In fp32 at least; 0 of a parameter that no output depends on.

    Raises:
        NumericalError: a gradient is NaN or infinite.
    """
    named = dict(learner.model.named_parameters())
    parameters = [named[name] for name in parameter_names]
    sums = [
        torch.zeros_like(p, dtype=torch.float64 if p.dtype == torch.float64 else torch.float32)
        for p in parameters
    ]
    for _, batch in learner.batches(examples):
        total = learner.target_outputs(learner.model, batch).sum()
        gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
        for running, gradient in zip(sums, gradients, strict=True):
            running.add_(gradient)
    count = learner.num(examples)
    means = {name: total / count for name, total in zip(parameter_names, sums, strict=True)}
    for name, mean in means.items():
        if not torch.isfinite(mean).all():
            raise NumericalError(f"gradient of `{name}`: NaN or infinite. Check the proxy's loss.")
    return means
