"""The length of each row's gradient, which decides dot products where it differs much."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsdm.data.sequences import Rows
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.factors import Factors, LayerFactors
from dsdm.learners.layers import Layer


def gradient_norms(
    learner: CausalLM, layers: Sequence[Layer], rows: Rows
) -> Float[np.ndarray, " rows"]:
    """The norm of each row's output gradient in some of the model's layers."""
    squares = np.zeros(len(rows.lengths))
    for indices, batch in learner.batches(rows):
        for factors in learner.factors(batch, layers).values():
            squares[indices] += _squared_norms(factors).double().cpu().numpy()
    return np.sqrt(squares)


def _squared_norms(factors: Factors) -> Float[Tensor, " batch"]:
    """|sum_t g_t x_t^T|^2 of each example, without forming it where the row is short."""
    if not isinstance(factors, LayerFactors) or _is_cheaper_formed(factors):
        parts = [part.gradients().square().sum((1, 2)) for part in factors.parts()]
        return torch.cat(parts)
    output_grads, inputs = factors.output_grads, factors.inputs
    products: Tensor = (output_grads @ output_grads.mT) * (inputs @ inputs.mT)
    # Rounding may leave a sum of squares just below 0.
    return products.sum((1, 2)).clamp(min=0)


def _is_cheaper_formed(factors: LayerFactors) -> bool:
    _, tokens, d_out = factors.output_grads.shape
    d_in = factors.inputs.shape[2]
    return tokens * (d_in + d_out) > d_in * d_out
