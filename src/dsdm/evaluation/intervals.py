"""How sure a mean difference is: paired intervals over seeds or over examples."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
REPLICATES = 4000
_DRAWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A mean and the range that it is in with the stated confidence."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is certain at that confidence."""
        return self.low > 0 or self.high < 0


def paired_t_interval(
    differences: Float[np.ndarray, " pairs"], confidence: float = CONFIDENCE
) -> Interval:
    """Student's t interval of the mean of paired differences.

    Raises:
        ValueError: fewer than two pairs, whose spread is unknown.
    """
    from scipy.special import stdtrit  # Interval must be quick to import

    count = len(differences)
    if count < 2:
        raise ValueError(f"a t interval needs two pairs or more, got {count}.")
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * error
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    mean: float, means: Float[np.ndarray, " replicates"], confidence: float = CONFIDENCE
) -> Interval:
    """The percentile interval of a mean from its bootstrap replicates."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def bootstrap_means(
    values: Float[np.ndarray, " examples"], *, seed: int, replicates: int = REPLICATES
) -> Float[np.ndarray, " {replicates}"]:
    """Means of `replicates` resamples of `values`, each drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(values)
    step = max(1, _DRAWS_AT_ONCE // count)
    means = np.empty(replicates)
    for first in range(0, replicates, step):
        part = means[first : first + step]
        part[:] = values[rng.integers(count, size=(len(part), count))].mean(axis=1)
    return means


def share_interval(found: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of the share that `found` of `total` (1 or more) estimate."""
    from scipy.stats import binomtest  # takes seconds to import

    ends = binomtest(found, total).proportion_ci(confidence, method="wilson")
    return Interval(found / total, float(ends.low), float(ends.high))
