"""dattri-llm 0.1.0: factors of the gradients from hooks, their products with one mean gradient.

Everything but the position table is frozen, as its documentation advises for probes, so that no
weight's gradient is computed. Features are projected to 16 x 16 a layer while they are captured.
Biases are left out, as bergson leaves them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from dattri_llm import HookManager, HookManagerConfig
from dattri_llm.gradient.callbacks import CaptureCallback
from dattri_llm.gradient.gradient import Gradient
from peers.linear_model import block_layers, summed_loss, with_linear_layers
from peers.worker import Job, Method

PROJECTION = {"style": "logra", "proj_dim": 16, "proj_max_batch_size": 32, "proj_type": "normal"}


class _Passes:
    """Passes whose gradients dattri-llm captures."""

    def __init__(self, job: Job, projection: dict[str, Any] | None) -> None:
        self.job = job
        self.model = with_linear_layers(job.model())
        self.model.requires_grad_(False)
        self.model.transformer.wpe.weight.requires_grad_(True)
        layers = block_layers(self.model)
        config = HookManagerConfig(
            hook_types=dict.fromkeys(layers, "linear_io"),
            module_kwargs={name: {"has_bias": False} for name in layers},
            projection_kwargs=None if projection is None else {"__default__": projection},
            capture_style="auto",
            include_frozen=True,
        )
        self.captured = CaptureCallback()
        self.hooks = HookManager(self.model, config=config, callbacks=[self.captured])

    def gradients(self, rows: np.ndarray) -> Iterator[Gradient]:
        """What was captured of each batch."""
        low = self.job.precision == "bfloat16"
        with self.hooks.collect():
            for batch in self.job.batches(rows):
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    loss = summed_loss(self.model, batch)
                loss.backward()
                yield self.captured.record.gradient
                self.model.zero_grad()

    def mean(self, rows: np.ndarray) -> Gradient:
        """The mean over rows as one gradient."""
        sums: dict[str, torch.Tensor] = {}
        for gradient in self.gradients(rows):
            whole = gradient.materialize()
            for name, value in whole.data.items():
                part = value.sum(0, keepdim=True) / len(rows)
                sums[name] = sums[name] + part if name in sums else part
        return Gradient(
            representation=whole.representation, data=sums, layer_types=whole.layer_types
        )


def _method(job: Job, projection: dict[str, Any] | None) -> Method:
    passes = _Passes(job, projection)
    target = passes.mean(job.targets)

    def score(candidates: np.ndarray) -> np.ndarray:
        products = [g.similarity(target, reduce="all") for g in passes.gradients(candidates)]
        return torch.cat(products)[:, 0].float().numpy()

    size = sum(value.numel() for value in target.data.values())
    return Method(score, bytes_per_row=0 if projection is None else 4 * size)


METHODS: dict[str, Callable[[Job], Method]] = {
    "features": lambda job: _method(job, PROJECTION),
    "score": lambda job: _method(job, None),
}
