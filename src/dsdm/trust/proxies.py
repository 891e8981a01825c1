"""What a proxy has learned, against what the frequencies of tokens alone would give."""

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedModel

from dsdm.data.sequences import Rows
from dsdm.datamodel.config import TRAITS, DirectionsConfig, damping_of
from dsdm.datamodel.layers import moved_layers
from dsdm.trust.measured import Curvature


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
    model: PreTrainedModel, method: str, config: DirectionsConfig, pool_rows: int
) -> Curvature | None:
    """What the method's curvature is fitted on; None for a method that has none.

    The dimension is that of the matrix that is inverted: for `trak` all projected gradients
    together, else the wider side of the widest layer; a table's vocabulary is not decomposed.
    """
    if TRAITS[method].damping is None:
        return None
    layers, size = moved_layers(model, embeddings=config.embeddings), config.projection
    if method == "trak":
        dimension = sum(min(size, la.d_in) * min(size, la.d_out) for la in layers)
    else:
        dimension = max(la.d_in if la.is_table else max(la.d_in, la.d_out) for la in layers)
    return Curvature(min(config.curvature_rows, pool_rows), dimension, damping_of(config, method))
