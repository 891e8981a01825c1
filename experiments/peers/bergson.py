"""bergson 2.5.1, through its Python API.

Its commands load the model anew for each step and cut batches at the model's context; the API
underneath does neither, so it is what is timed. Features are projected to 16 x 16 a module, which
is `bergson trackstar`'s default. `trak` is one pass of the dense projection that `bergson trak`
uses (the command itself makes two of them and one more forward pass).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bergson.collection import CollectorComputer
from bergson.collector.in_memory_collector import InMemoryCollector
from bergson.config.config import IndexConfig
from bergson.data import allocate_batches
from bergson.gradients import GradientProcessor
from bergson.score.score_writer import InMemorySequenceScoreWriter
from bergson.score.scorer import Scorer
from datasets import Dataset
from peers.trak import trak_scores
from peers.worker import Job, Method

SIDE = 16


class _Passes:
    """Passes over rows with the hooks that bergson sets."""

    def __init__(self, job: Job, projection: int, target: str = "per_module") -> None:
        self.job = job
        self.model = job.model(dtype=getattr(torch, job.precision))
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().requires_grad_(True)
        self.projection = projection
        self.target = target

    def collect(self, rows: np.ndarray, scorer: Scorer | None = None) -> InMemoryCollector:
        """One forward and backward pass; gradients are kept where nothing scores them."""
        batch_tokens = self.job.batch_rows * rows.shape[1]
        run = self.job.folder / "bergson"
        (run.parent / "bergson.part").mkdir(exist_ok=True)
        config = IndexConfig(
            run_path=str(run),
            token_batch_size=batch_tokens,
            projection_dim=self.projection,
            projection_target=self.target,
        )
        processor = GradientProcessor(
            projection_dim=self.projection or None,
            projection_type="rademacher",
            projection_target=self.target,
        )
        data = Dataset.from_dict(
            {"input_ids": rows.tolist(), "length": [rows.shape[1]] * len(rows)}
        )
        collector = InMemoryCollector(
            model=self.model.base_model, cfg=config, processor=processor, data=data, scorer=scorer
        )
        CollectorComputer(
            model=self.model,
            data=data,
            collector=collector,
            cfg=config,
            batches=allocate_batches(data["length"][:], batch_tokens),
        ).run_with_collector_hooks(desc="bench")
        return collector

    def features(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The projected gradients of each module."""
        gradients = self.collect(rows).gradients
        return {name: g.reshape(len(rows), -1).float() for name, g in gradients.items()}


def _features(job: Job) -> Method:
    passes = _Passes(job, SIDE)
    target = torch.cat(list(passes.features(job.targets).values()), 1).mean(0)

    def score(candidates: np.ndarray) -> np.ndarray:
        return (torch.cat(list(passes.features(candidates).values()), 1) @ target).numpy()

    return Method(score, bytes_per_row=len(target) * passes.model.dtype.itemsize)


def _score(job: Job, projection: int) -> Method:
    passes = _Passes(job, projection)
    means = {name: g.mean(0, keepdim=True) for name, g in passes.features(job.targets).items()}

    def score(candidates: np.ndarray) -> np.ndarray:
        writer: Any = InMemorySequenceScoreWriter(len(candidates), 1)
        device = torch.device("cpu")
        scorer = Scorer(means, list(means), writer, device, passes.model.dtype)
        return np.asarray(passes.collect(candidates, scorer).scores).reshape(len(candidates))

    return Method(score, bytes_per_row=8)


def _trak(job: Job) -> Method:
    passes = _Passes(job, job.projection, "global")

    def features(rows: np.ndarray) -> torch.Tensor:
        return torch.cat(list(passes.features(rows).values()), 1)

    target = features(job.targets[: job.batch_rows]).mean(0)

    def score(candidates: np.ndarray) -> np.ndarray:
        return trak_scores(features(candidates), target, job.damping)

    return Method(score, bytes_per_row=job.projection * passes.model.dtype.itemsize)


METHODS: dict[str, Callable[[Job], Method]] = {
    "features": _features,
    "score": lambda job: _score(job, SIDE),
    "score_full": lambda job: _score(job, 0),
    "trak": _trak,
}
