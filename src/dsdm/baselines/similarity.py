"""Embedding similarity: keep the texts that mean about the same as the targets.

Representation-based selection, as LESS compares with (Xia et al., ICML 2024, appendix; Zhang et al.
2018): cosines of embeddings instead of gradients.

Differs from LESS's: the mean state over all tokens that are read instead of the last token's, and
the weighted mean over targets instead of the best of them.
"""

import numpy as np

from dsdm.baselines.config import SimilarityConfig
from dsdm.baselines.embeddings import candidate_embeddings, target_embeddings
from dsdm.baselines.inputs import BaselineInputs
from dsdm.selection import Scores


def similarity(inputs: BaselineInputs, config: SimilarityConfig) -> Scores:
    """The mean cosine of each candidate with a target's examples, weighted over targets.

    One pass of `inputs.advance`.

    Raises:
        ModelError: `config.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    total = sum(inputs.weights[name] for name in inputs.targets)
    query = sum(
        inputs.weights[name] / total * vectors.mean(0)
        for name, vectors in target_embeddings(inputs, config).items()
    )
    values = candidate_embeddings(inputs, config) @ np.asarray(query, np.float32)
    return inputs.scores(values.astype(np.float64), "similarity")
