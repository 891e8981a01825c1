"""What a proxy has learned, against what the frequencies of tokens alone would give."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from dsdm.checking.measured import Curvature
from dsdm.config import Config
from dsdm.data.sequences import Rows
from dsdm.datamodel.estimators import CurvatureConfig, Workload, known_estimator
from dsdm.datamodel.estimators.costs import LayerShape


def unigram_entropy(rows: Rows) -> float:
    """The entropy of the rows' token frequencies, in nats: the least loss that these allow.

    Of the tokens whose prediction counts: a row's first never does. Rows must hold many times as
    many tokens as the vocabulary has entries; of few, the entropy comes out too low.
    """
    read = [rows.row(i) for i in range(len(rows.lengths))]
    predicted = [row.tokens[row.is_counted] for row in read]
    counts = np.bincount(np.concatenate(predicted).astype(np.int64))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def token_mean(
    losses: Float[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]
) -> float | None:
    """The mean loss over predicted tokens, given each row's mean; None without rows."""
    predicted = np.maximum(lengths - 1, 0)
    return float(np.average(losses, weights=predicted)) if predicted.sum() else None


def curvature_of(
    layers: Sequence[LayerShape], estimator: str, settings: Config, pool_rows: int
) -> Curvature | None:
    """What the estimator's curvature is fitted on; None for one that has none."""
    if not isinstance(settings, CurvatureConfig):
        return None
    cost = known_estimator(estimator).cost(settings, Workload(layers))
    return Curvature(min(settings.curvature_rows, pool_rows), cost.dimension, settings.damping)
