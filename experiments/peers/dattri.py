"""dattri 0.3.0: LoGra's factorised projections, 16 x 16 a layer, and TRAK's dense one.

Both have one column for each target row, which are averaged afterwards. TRAK is its first half,
`cache`, in which all of the candidates' gradients are taken and projected.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from dattri.algorithm.logra import LoGraAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.func.projection import random_project
from dattri.task import AttributionTask
from peers.linear_model import Rows, block_layers, summed_loss, with_linear_layers
from peers.worker import Job, Method
from torch.utils.data import DataLoader, TensorDataset

LOGRA_DIMENSIONS = 256


def _logra(job: Job) -> Method:
    _only_in(job, "float32")
    model = with_linear_layers(job.model())
    os.chdir(job.folder)  # it writes a file of its own into the current folder

    def loss(model: Any, batch: Any, device: str) -> torch.Tensor:
        return summed_loss(model, batch["input_ids"])

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    layers = block_layers(model)

    def score(candidates: np.ndarray) -> np.ndarray:
        attributor = LoGraAttributor(task, layers, hessian="Identity", proj_dim=LOGRA_DIMENSIONS)
        rows = DataLoader(Rows(candidates), batch_size=job.batch_rows)
        attributor.cache(rows)
        targets = DataLoader(Rows(job.targets), batch_size=job.batch_rows)
        return attributor.attribute(rows, targets).mean(1).numpy()

    return Method(score, bytes_per_row=4 * LOGRA_DIMENSIONS * len(layers), takes_once=True)


def _trak(job: Job) -> Method:
    _only_in(job, "float32")
    model = job.model(attn_implementation="eager")
    names = [name for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    kwargs = {"proj_dim": job.projection, "proj_max_batch_size": 32, "proj_seed": 0}

    def loss(parameters: Any, row: Any) -> torch.Tensor:
        inputs = {"input_ids": row[0][None, :-1], "use_cache": False}
        logits = torch.func.functional_call(model, parameters, (), inputs).logits[0]
        return torch.nn.functional.cross_entropy(logits, row[0][1:])

    def certain(parameters: Any, row: Any) -> torch.Tensor:
        return torch.zeros(())  # the weight 1 - p is left to 1, as the exact scores have it

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    attributor = TRAKAttributor(task, certain, kwargs, names)

    def projected(rows: np.ndarray) -> torch.Tensor:
        gradients = task.get_grad_loss_func(in_dims=(None, 0), layer_name=names, ckpt_idx=0)
        parameters, _ = task.get_param(ckpt_idx=0, layer_name=names)
        found = gradients(parameters, (torch.from_numpy(rows),)) / attributor.norm_scaler
        project = random_project(found, len(found), **attributor.projector_kwargs)
        return project(found, ensemble_id=0).detach()

    target = projected(job.targets[: job.batch_rows]).mean(0)
    squares = projected(job.candidates[: job.batch_rows]).square().sum(1)
    attributor.regularization = job.damping * squares.mean().item()

    def score(candidates: np.ndarray) -> np.ndarray:
        rows = TensorDataset(torch.from_numpy(candidates))
        attributor.cache(DataLoader(rows, batch_size=job.batch_rows))
        return (attributor.inv_XTX_XT_list[0].T @ target).numpy()

    return Method(score, bytes_per_row=4 * job.projection)


def _only_in(job: Job, precision: str) -> None:
    if job.precision != precision:
        raise NotImplementedError(f"it has no setting for {job.precision}")


METHODS: dict[str, Callable[[Job], Method]] = {
    "features": _logra,
    "trak": _trak,
}
