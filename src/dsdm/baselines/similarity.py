"""Embedding similarity: keep the texts that mean about the same as the targets.

Representation-based selection, as LESS compares with (Xia et al., ICML 2024, appendix; Zhang et al.
2018): cosines of embeddings instead of gradients.

Differs from LESS's: the mean state over all tokens that are read instead of the last token's, and
the weighted mean over targets instead of the best of them.
"""

import numpy as np

from dsdm.baselines.config import SimilarityConfig
from dsdm.baselines.embeddings import candidate_embeddings, target_embeddings
from dsdm.baselines.question import Question
from dsdm.selection import Scores


def similarity(question: Question, config: SimilarityConfig) -> Scores:
    """The mean cosine of each candidate with a target's examples, weighted over targets.

    One pass of `question.advance`.

    Raises:
        ModelError: `config.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    total = sum(question.weights[name] for name in question.targets)
    query = sum(
        question.weights[name] / total * vectors.mean(0)
        for name, vectors in target_embeddings(question, config).items()
    )
    values = candidate_embeddings(question, config) @ np.asarray(query, np.float32)
    return question.scores(values.astype(np.float64), "similarity")
