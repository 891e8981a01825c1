"""SemDeDup: keep the texts that mean what no kept text means yet, whatever the targets are.

Source: Abbas, Tirumala, Simig, Ganguli and Morcos, SemDeDup, 2023 (arXiv:2303.09540), and the
authors' published code. Its rule within a cluster: members in order of falling distance from the
centroid; one is dropped whose cosine with any earlier one, dropped or not, exceeds 1 - eps.

Differs from the paper: embeddings are the proxy's (the paper: OPT-125M's, of the last token);
clusters are those of Euclidean k-means on unit vectors, and their members' mean direction is the
centroid; there are as many as suit the pool (the published code: 50,000).
"""

import math
from typing import Annotated

import msgspec
import numpy as np
from jaxtyping import Float

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.packages import require_embedding
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.selection import Scores

BLOCK = 2048
"""Candidates that are compared with as many others at once: 16 MB of cosines."""


class SemDedupConfig(Config):
    """Semantic deduplication (Abbas et al., 2023)."""

    embedding: str = "proxy"
    """`proxy`: mean of the first proxy's last hidden states; else a sentence-embedding model's id
    or folder, which needs the `sentence-transformers` package."""
    clusters: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Clusters of the k-means; None: the square root of the number of candidates."""


@baseline(
    "semdedup",
    help="Semantic deduplication (Abbas et al., 2023).",
    settings=SemDedupConfig,
    sees_targets=False,
    reads_proxies=lambda settings: settings.embedding == "proxy",
    passes=lambda settings, num_proxies, num_checkpoints: float(settings.embedding == "proxy"),
    check=lambda settings: require_embedding("semdedup", settings.embedding),
)
def semdedup(inputs: BaselineInputs, settings: SemDedupConfig) -> Scores:
    """Minus the largest cosine with an earlier candidate of the same cluster; 1 for its first.

    What lies at -(1 - eps) or above is what the published rule keeps, so that to take the best is
    to take the eps that leaves as many. Memory is the embeddings and two copies of the largest
    cluster's. Two passes of `inputs.advance`: reading, comparing.

    Raises:
        ModelError: `settings.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    from dsdm.baselines.embeddings import candidate_embeddings

    vectors = candidate_embeddings(inputs, settings.embedding, "semdedup")
    values = np.empty(len(vectors))
    for members in _clusters(vectors, settings.clusters, inputs.seed):
        own = vectors[members]
        order = np.argsort(own @ own.mean(0), kind="stable")
        values[members[order]] = -_earlier_cosines(own[order])
        inputs.advance(len(members))
    return inputs.scores(values, "semdedup")


def _clusters(
    vectors: Float[np.ndarray, "candidates dim"], num_clusters: int | None, seed: int
) -> list[np.ndarray]:
    """The candidates of each cluster, in order of index."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(num_clusters or math.isqrt(len(vectors)), len(vectors))
    # KMeans without batches adds up in another order at every run on many cores.
    kmeans = MiniBatchKMeans(count, batch_size=max(1024, 8 * count), n_init=1, random_state=seed)
    labels = kmeans.fit(vectors).labels_
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _earlier_cosines(
    vectors: Float[np.ndarray, "members dim"],
) -> Float[np.ndarray, " members"]:
    """The largest cosine of each member with an earlier one; -1 for the first."""
    largest = np.full(len(vectors), -1, np.float32)
    for start in range(0, len(vectors), BLOCK):
        own, found = vectors[start : start + BLOCK], largest[start : start + BLOCK]
        for earlier in range(0, start + 1, BLOCK):
            cosines = vectors[earlier : earlier + BLOCK] @ own.T
            if earlier == start:
                cosines[np.tri(len(own), dtype=bool)] = -1
            np.maximum(found, cosines.max(0), out=found)
    return largest
