"""The baseline that keeps what the proxies predict best, whatever the targets are."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.registry import NoSettings, baseline
from dsdm.selection import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@baseline(
    "low_loss",
    help="What the proxies predict best, as in Marion et al., 2023.",
    sees_targets=False,
    reads_proxies=True,
    passes=lambda settings, num_proxies, num_checkpoints: float(num_proxies),
)
def low_loss(inputs: BaselineInputs, settings: NoSettings) -> Scores:
    """Minus the loss of each candidate in nats a token, averaged over the proxies.

    One pass of `inputs.advance` a proxy. A candidate of a single token, of which nothing is
    predicted, gets the lowest value of the pool.

    Source: selection by perplexity, as in Marion et al., When Less is More, 2023.
    """
    values = np.zeros(inputs.num_candidates)
    for load in inputs.proxies:
        values += _mean_loglik(inputs, load()) / len(inputs.proxies)
    return inputs.scores(values, "low-loss")


def _mean_loglik(
    inputs: BaselineInputs, model: "PreTrainedModel"
) -> Float[np.ndarray, " candidates"]:
    """The mean of log p, in nats, over all tokens of a candidate's rows but the first of each."""
    import torch

    from dsdm.baselines.pool_batches import pool_batches
    from dsdm.data.batches import IGNORED
    from dsdm.lm.outputs import token_outputs
    from dsdm.precision import autocast

    sums = np.zeros(inputs.num_candidates)
    counts = np.zeros(inputs.num_candidates, np.int64)
    with torch.inference_mode(), autocast(model.device, "auto"):
        for _, candidates, batch in pool_batches(inputs, model):
            row_sums = token_outputs(model, batch, "loglik").double().sum(1)
            np.add.at(sums, candidates, row_sums.cpu().numpy())
            np.add.at(counts, candidates, (batch.labels != IGNORED).sum(1).cpu().numpy())
    means = sums / np.maximum(counts, 1)
    return np.where(counts > 0, means, means.min(initial=0.0))
