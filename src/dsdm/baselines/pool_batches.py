"""The pool as a model reads it, in batches, for the baselines that need a model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dsdm.baselines.inputs import BaselineInputs
from dsdm.data.batches import Batch, iter_batches
from dsdm.lm.model import flops_per_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 16_384


def pool_batches(
    inputs: BaselineInputs, model: "PreTrainedModel"
) -> Iterator[tuple[np.ndarray, np.ndarray, Batch]]:
    """Every row of the pool once: rows, their candidates, and the batch on the model's device.

    A candidate counts as passed with its first row.
    """
    candidates = inputs.candidate_of_row
    is_first = np.diff(candidates, prepend=-1) > 0
    for rows, batch in iter_batches(inputs.rows, BATCH_TOKENS, model.device):
        yield rows, candidates[rows], batch
        inputs.advance(int(is_first[rows].sum()))
        tokens, seq = batch.inputs.numel(), batch.inputs.shape[1]
        inputs.count_flops(tokens * flops_per_token(model, seq))
