"""traker 0.3.2: TRAK with its dense projection, a ridge, and one target averaged afterwards.

The gradients are of the rows' mean log-likelihood, whose vmap needs transformers' plain attention.
Its half precision is fp16, which this CPU does not multiply in, so there is fp32 alone.
"""

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers.worker import Job, Method
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput


class _LogLikelihood(AbstractModelOutput):
    """What traker asks for: one row's output, and the weight of its gradient, here 1."""

    def __init__(self) -> None:
        pass

    @staticmethod
    def get_output(model: Any, weights: Any, buffers: Any, row: torch.Tensor) -> torch.Tensor:
        """The mean log-likelihood of a row's tokens."""
        inputs = {"input_ids": row[None, :-1], "use_cache": False}
        logits = torch.func.functional_call(model, (weights, buffers), (), inputs).logits[0]
        return -torch.nn.functional.cross_entropy(logits, row[1:])

    def get_out_to_loss_grad(
        self, model: Any, weights: Any, buffers: Any, batch: Any
    ) -> torch.Tensor:
        """The same weight for every row."""
        return torch.ones(len(batch[0]), 1)


def _trak(job: Job) -> Method:
    if job.precision != "float32":
        raise NotImplementedError("its half precision is fp16, which is no faster on a CPU")
    model = job.model(attn_implementation="eager")
    names = [name for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]

    def featurized(rows: np.ndarray, folder: str) -> TRAKer:
        traker = TRAKer(
            model=model,
            task=_LogLikelihood(),
            train_set_size=len(rows),
            save_dir=folder,
            device="cpu",
            proj_dim=job.projection,
            use_half_precision=False,
            grad_wrt=names,
            logging_level=logging.WARNING,
        )
        traker.load_checkpoint(model.state_dict(), model_id=0)
        for batch in job.batches(rows):
            traker.featurize(batch=[batch], num_samples=len(batch))
        return traker

    def projected(traker: TRAKer) -> torch.Tensor:
        return torch.from_numpy(np.array(traker.saver.current_store["grads"])).float()

    with tempfile.TemporaryDirectory() as folder:
        target = projected(featurized(job.targets[: job.batch_rows], folder)).mean(0)

    def score(candidates: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            traker = featurized(candidates, folder)
            squares = projected(traker).square().sum(1)
            traker.score_computer.lambda_reg = job.damping * squares.mean().item()
            traker.finalize_features()
            features = torch.from_numpy(np.array(traker.saver.current_store["features"]))
            return (features.float() @ target).numpy()

    return Method(score, bytes_per_row=2 * 4 * job.projection)


METHODS: dict[str, Callable[[Job], Method]] = {"trak": _trak}
