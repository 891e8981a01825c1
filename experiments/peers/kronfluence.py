"""kronfluence 1.0.1: EK-FAC influence with the target's gradients summed before they are used.

Damping is a tenth of the mean eigenvalue, and the Fisher matrix is taken at the rows' own tokens,
as dsdm does. Scores in bf16 take its own low-precision settings.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.common.score_arguments import all_low_precision_score_arguments
from peers.linear_model import Rows, block_layers, summed_loss, with_linear_layers
from peers.worker import Job, Method


class _Language(Task):
    def __init__(self, layers: list[str]) -> None:
        self.layers = layers

    def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> torch.Tensor:
        """The summed loss; labels are never drawn, since the empirical Fisher is asked for."""
        return summed_loss(model, batch["input_ids"])

    def compute_measurement(self, batch: Any, model: Any) -> torch.Tensor:
        """The summed loss of the target's rows."""
        return summed_loss(model, batch["input_ids"])

    def get_influence_tracked_modules(self) -> list[str]:
        """The blocks' linear layers."""
        return self.layers


def _score(job: Job) -> Method:
    model = with_linear_layers(job.model())
    task = _Language(block_layers(model))
    model = prepare_model(model, task)
    folder = job.folder / f"kronfluence-{job.precision}"
    analyzer = Analyzer("bench", model, task, cpu=True, output_dir=str(folder), disable_tqdm=True)
    analyzer.fit_all_factors(
        factors_name="ekfac",
        dataset=Rows(job.candidates),
        per_device_batch_size=job.batch_rows,
        factor_args=FactorArguments(use_empirical_fisher=True),
        overwrite_output_dir=True,
    )
    low = job.precision == "bfloat16"
    settings = all_low_precision_score_arguments(dtype=torch.bfloat16) if low else ScoreArguments()
    settings.damping_factor = None
    settings.aggregate_query_gradients = True

    def score(candidates: np.ndarray) -> np.ndarray:
        analyzer.compute_pairwise_scores(
            scores_name="bench",
            factors_name="ekfac",
            query_dataset=Rows(job.targets),
            train_dataset=Rows(candidates),
            per_device_query_batch_size=len(job.targets),
            per_device_train_batch_size=job.batch_rows,
            score_args=settings,
            overwrite_output_dir=True,
        )
        return analyzer.load_pairwise_scores("bench")["all_modules"][0].float().numpy()

    return Method(score, bytes_per_row=4, takes_once=True)


METHODS: dict[str, Callable[[Job], Method]] = {"score": _score}
