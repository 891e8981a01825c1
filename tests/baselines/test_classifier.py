"""The classifier in sparse batches against a minimiser on dense counts, and its rule of noise."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.utils import murmurhash3_32

from dsdm.baselines import classifier as classifier_module
from dsdm.baselines.classifier import ClassifierConfig, classifier
from tests.baselines.small_inputs import inputs_of

BUCKETS = 16
VOCABULARY = ["The", "the", "sea", "of", "STARS", "war", "x_1", "don't", "42", "海と空"]
TARGETS = {"short": ["the sea", "sea sea stars", ""], "long": ["a war of the\tstars and the sea"]}


def small(**settings) -> ClassifierConfig:
    """Buckets enough for the words of a test, few enough to be quick."""
    return ClassifierConfig(buckets=2**10, **settings)


def random_texts(count: int, seed: int = 0, longest: int = 8) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [" ".join(rng.choice(VOCABULARY, length)) for length in lengths]


def dense_counts(texts: list[str]) -> np.ndarray:
    counts = np.zeros((len(texts), BUCKETS))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            counts[row, abs(murmurhash3_32(word)) % BUCKETS] += 1
    return counts


def literal_log_odds(texts, targets, weights):
    """Minimises the weighted logistic loss and half the squared coefficients, all of it learned."""
    examples = [(text, name) for name in targets for text in targets[name]]
    x = dense_counts([text for text, _ in examples] + texts)
    sign = np.array([1.0] * len(examples) + [-1.0] * len(texts))
    each = [weights[name] / sum(weights.values()) / len(targets[name]) for _, name in examples]
    each = np.array(each + [1 / len(texts)] * len(texts)) * len(x) / 2

    def loss(parameters):
        margins = sign * (x @ parameters[1:] + parameters[0])
        slopes = -each * sign / (1 + np.exp(margins))
        gradient = np.concatenate([[slopes.sum()], x.T @ slopes + parameters[1:]])
        return each @ np.log1p(np.exp(-margins)) + (parameters[1:] ** 2).sum() / 2, gradient

    best = minimize(loss, np.zeros(BUCKETS + 1), jac=True, tol=1e-12).x
    return dense_counts(texts) @ best[1:] + best[0]


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("weights", [{"short": 1.0, "long": 1.0}, {"short": 6.0, "long": 2.0}])
def test_scores_are_the_log_odds_of_the_best_fit(monkeypatch, batch, weights):
    monkeypatch.setattr(classifier_module, "TEXTS", batch)
    texts = random_texts(60)
    config = ClassifierConfig(buckets=BUCKETS)
    found = classifier(inputs_of(texts, TARGETS, weights), config)
    expected = literal_log_odds(texts, TARGETS, weights)
    np.testing.assert_allclose(found.values, expected, atol=1e-3)
    assert (found.method, found.target, found.fingerprint) == ("classifier", "mix", "abcd")


def planted(count: int, like: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """A pool whose first `like` texts share the targets' words, and the targets."""
    rng = np.random.default_rng(seed)
    common = [f"common{i}" for i in range(50)]
    own = [f"sea{i}" for i in range(10)]
    other = [f"news{i}" for i in range(300)]

    def text(special):
        return " ".join([*rng.choice(common, 10), *rng.choice(special, 10)])

    pool = [text(own if i < like else other) for i in range(count)]
    return pool, [text(own) for _ in range(100)]


@pytest.mark.parametrize("pool_texts", [100, 1000])
def test_texts_with_the_words_of_the_targets_come_first(pool_texts):
    pool, targets = planted(400, like=40)
    config = small(pool_texts=pool_texts)
    values = classifier(inputs_of(pool, {"sea": targets}), config).values
    assert (np.argsort(-values)[:40] < 40).mean() > 0.9


def test_targets_count_by_their_weights():
    texts = ["north wind", "south wind", "east wind", "west wind"]
    targets = {"north": ["north"], "south": ["south"] * 50}

    def values(north, south):
        weights = {"north": north, "south": south}
        return classifier(inputs_of(texts, targets, weights), small()).values

    assert values(2.0, 1.0)[0] > values(2.0, 1.0)[1]
    assert values(1.0, 2.0)[0] < values(1.0, 2.0)[1]
    np.testing.assert_allclose(values(1.0, 1.0)[0], values(1.0, 1.0)[1], atol=1e-2)
    np.testing.assert_array_equal(values(1.0, 0.0), values(8.0, 0.0))


def test_no_more_than_pool_texts_are_learned_from():
    pool = [f"word{i}" for i in range(200)]
    inputs = inputs_of(pool, {"t": ["other"]})
    values = classifier(inputs, ClassifierConfig(pool_texts=50, buckets=2**16)).values
    assert (values < values.max() - 1e-3).sum() == 50


def test_the_seed_draws_the_texts_to_learn_from():
    pool, targets = planted(100, like=10)
    one, same, other = (
        classifier(inputs_of(pool, {"t": targets}, seed=s), small(pool_texts=50)).values
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_noise_keeps_texts_as_often_as_gpt3s_rule():
    pool = ["sea calm", "news report", "sea report", "wind"] * 5000
    inputs = inputs_of(pool, {"t": ["sea calm blue", "blue sea"]}, seed=3)
    log_odds = classifier(inputs, small(pool_texts=40)).values
    noisy = classifier(inputs, small(pool_texts=40, noise=True)).values
    probabilities = 1 / (1 + np.exp(-log_odds))
    assert np.ptp(probabilities[:4]) > 0.15
    for kind in range(4):
        # a Pareto(9) draw exceeds t with probability (1 + t)^-9
        expected = (2 - probabilities[kind]) ** -9
        assert abs((noisy[kind::4] > 0).mean() - expected) < 0.02
    np.testing.assert_array_equal(
        noisy, classifier(inputs, small(pool_texts=40, noise=True)).values
    )


def test_noise_stays_finite_where_odds_are_extreme():
    pool = ["sea " * 5000, "news " * 5000, "wind"]
    config = small(noise=True)
    assert np.isfinite(classifier(inputs_of(pool, {"t": ["sea"]}), config).values).all()


def test_the_pass_that_scores_is_counted(monkeypatch):
    monkeypatch.setattr(classifier_module, "TEXTS", 8)
    seen: list[int] = []
    classifier(inputs_of(random_texts(30), TARGETS, advance=seen.append), small())
    assert seen == [8, 8, 8, 6]
