"""The quality classifier of GPT-3: keep what looks more like the targets than like the pool.

Source: Brown et al., Language Models are Few-Shot Learners, NeurIPS 2020 (arXiv:2005.14165),
appendix A. Features are theirs, of Spark's Tokenizer and HashingTF: words between spaces, in lower
case, counted in hashed buckets and not normalised.
"""

from collections.abc import Iterable
from itertools import chain, compress, islice
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from jaxtyping import Bool, Float

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.selection import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import LogisticRegression

Count = Annotated[int, msgspec.Meta(ge=1)]

TEXTS = 1024
PARETO_SHAPE = 9
MAX_ITERATIONS = 1000
TOLERANCE = 1e-5  # scikit-learn's 1e-4 stops at a loss 1% above the least, with another ranking


class ClassifierConfig(Config):
    """Logistic regression of target text against pool text (Brown et al., NeurIPS 2020)."""

    buckets: Count = 2**18
    """Buckets that words are hashed into."""
    pool_texts: Count = 100_000
    """The most candidates, drawn at random, to learn from as the other class."""
    noise: bool = False
    """Keep by GPT-3's rule, score > 1 - a Pareto(9) draw, instead of by score."""


@baseline(
    "classifier",
    help="Logistic regression of target text against pool text (Brown et al., NeurIPS 2020).",
    settings=ClassifierConfig,
)
def classifier(inputs: BaselineInputs, settings: ClassifierConfig) -> Scores:
    """Log-odds of each candidate to be target text, in nats, at even prior odds.

    With `settings.noise`, a Pareto(9) draw less the probability p of being pool text instead. GPT-3
    keeps a text where that is above 0; the top k of it is the same rule with the threshold that
    fills the budget. Two passes over the pool, the second of which calls `inputs.advance`.

    Differs from the paper, which has far more pool text than it learns from: here much of a small
    pool is learned from, and those candidates score lower than they would if unseen.
    """
    from sklearn.feature_extraction import FeatureHasher

    sampling, noise = np.random.default_rng([inputs.seed, *b"classifier"]).spawn(2)
    hasher = FeatureHasher(settings.buckets, input_type="string", alternate_sign=False)
    is_drawn = _draw(inputs.num_candidates, settings.pool_texts, sampling)
    model = _fit(inputs, is_drawn, hasher)
    values = _log_odds(inputs, model, hasher)
    if settings.noise:
        pool_probability = np.exp(-np.logaddexp(0, values))
        values = noise.pareto(PARETO_SHAPE, len(values)) - pool_probability
    return inputs.scores(values, "classifier")


def _draw(count: int, limit: int, rng: np.random.Generator) -> Bool[np.ndarray, " candidates"]:
    """Which candidates to learn from."""
    is_drawn = np.zeros(count, bool)
    is_drawn[rng.choice(count, min(count, limit), replace=False)] = True
    return is_drawn


def _fit(
    inputs: BaselineInputs, is_drawn: Bool[np.ndarray, " candidates"], hasher: "FeatureHasher"
) -> "LogisticRegression":
    """Logistic regression of the targets' texts against the pool's; both weigh the same in all."""
    from sklearn.linear_model import LogisticRegression

    drawn = compress(inputs.texts(), is_drawn)
    features = _count_words(chain(*inputs.targets.values(), drawn), hasher)
    target_weights = _target_weights(inputs)
    pool_weights = np.full(is_drawn.sum(), 1 / is_drawn.sum())
    weights = np.concatenate([target_weights, pool_weights]) * features.shape[0] / 2
    is_target = np.arange(len(weights)) < len(target_weights)
    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    return model.fit(features, is_target, weights)


def _target_weights(inputs: BaselineInputs) -> Float[np.ndarray, " texts"]:
    """Of each text, one in all; each text of a target weighs the same."""
    total = sum(inputs.weights[name] for name in inputs.targets)
    return np.concatenate(
        [
            np.full(len(texts), inputs.weights[name] / total / len(texts))
            for name, texts in inputs.targets.items()
        ]
    )


def _log_odds(
    inputs: BaselineInputs, model: "LogisticRegression", hasher: "FeatureHasher"
) -> Float[np.ndarray, " candidates"]:
    texts, values = inputs.texts(), []
    while block := list(islice(texts, TEXTS)):
        values.append(model.decision_function(_count_words(block, hasher)))
        inputs.advance(len(block))
    return np.concatenate(values)


def _count_words(texts: Iterable[str], hasher: "FeatureHasher") -> "csr_matrix":
    """How often each text has a word of each bucket, shape (texts, buckets)."""
    return hasher.transform(text.lower().split() for text in texts)
