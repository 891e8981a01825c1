"""Exact scores of what the methods claim to compute, for the rank correlations.

- `slope`: the exact derivative along the targets' mean gradient, that is the dot product of the
  candidate's gradient with it.
- `trak`: the same through the inverse of the candidates' damped Gram matrix, with the gradients
  themselves where TRAK has their random projection.
- `ekfac`: the derivative along dsdm's EK-FAC direction, its curvature fitted on the candidates.
"""

from pathlib import Path

import numpy as np
import torch
from peers.ours import OUTPUT, TokenRows, mean_direction
from peers.worker import read_job
from transformers import PreTrainedModel

from dsdm.data.batches import collate
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.scoring import exact_scores
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.lm_layers import linear_layers
from dsdm.lm.model import load_saved
from dsdm.lm.outputs import example_outputs


def all_exact(jobs: dict[str, Path]) -> dict[str, np.ndarray]:
    """The scores by the name of what is claimed; `trak` is of the candidates of that job alone."""
    job = read_job(jobs["all"], "float32")
    model = load_saved(job.folder / "model")
    batch_tokens = job.batch_rows * job.candidates.shape[1]
    learner, rows = CausalLM(model, OUTPUT, 0.0, batch_tokens), TokenRows(job.candidates)
    mean = mean_direction(learner, job.targets)
    inputs = EstimatorInputs(learner, {"mix": TokenRows(job.targets)}, rows, embeddings=False)
    settings = ESTIMATORS["ekfac"].settings(curvature_rows=len(job.candidates))
    found = ESTIMATORS["ekfac"].estimate(inputs, settings)
    ekfac = Direction(found["mix"], "ekfac", "mix", "bench")
    few = read_job(jobs["trak"], "float32")
    return {
        "slope": exact_scores(learner, mean, rows),
        "ekfac": exact_scores(learner, ekfac, rows),
        "trak": trak_scores(_gradients(model, few.candidates), mean, few.damping),
    }


def trak_scores(gradients: torch.Tensor, target: Direction, damping: float) -> np.ndarray:
    """x^T (G^T G + lambda)^-1 g for each row x of G, through the Gram matrix of the rows."""
    flat = torch.cat([tensor.flatten() for tensor in target.tensors.values()])
    gram = (gradients @ gradients.T).double()
    products = (gradients @ flat).double()
    gram.diagonal().add_(damping * gram.diagonal().mean().item())
    return torch.linalg.solve(gram, products).numpy()


def _gradients(model: PreTrainedModel, rows: np.ndarray) -> torch.Tensor:
    """Each row's gradient in the layers' weights and biases, those of biases zero."""
    layers = linear_layers(model)
    names = [name for layer in layers for name in layer.parameter_names]
    biases = {layer.bias_name for layer in layers}
    named = dict(model.named_parameters())
    found = []
    for row in TokenRows(rows).tokens:
        output = example_outputs(model, collate([TokenRows(row[None]).row(0)]), OUTPUT).sum()
        gradients = torch.autograd.grad(output, [named[name] for name in names])
        parts = zip(names, gradients, strict=True)
        found.append(torch.cat([g.flatten() * (name not in biases) for name, g in parts]))
    return torch.stack(found)
