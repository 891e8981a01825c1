"""Losses of a model on targets."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, iter_batches
from dsdm.lm.outputs import example_outputs
from dsdm.precision import Precision, autocast


def example_losses(
    model: PreTrainedModel, rows: Rows, *, batch_tokens: int, precision: Precision = "auto"
) -> Float[np.ndarray, " rows"]:
    """The loss of each row in nats a counted token."""
    losses = np.zeros(len(rows.lengths))
    with torch.inference_mode(), autocast(model.device, precision):
        for indices, batch in iter_batches(rows, batch_tokens, model.device):
            outputs = example_outputs(model, batch, "loglik")
            losses[indices] = -outputs.double().cpu().numpy()
    return losses


def target_losses(
    model: PreTrainedModel, targets: Mapping[str, Rows], *, batch_tokens: int
) -> dict[str, Float[np.ndarray, " examples"]]:
    """The loss of each example of each target, in nats a target token."""
    return {
        name: example_losses(model, rows, batch_tokens=batch_tokens)
        for name, rows in targets.items()
    }
