"""How sure a mean difference is: paired intervals over seeds or over examples."""

import math
from dataclasses import dataclass
from statistics import NormalDist

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
    count = len(differences)
    if count < 2:
        raise ValueError(f"a t interval needs two pairs or more, got {count}.")
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = t_quantile(0.5 + confidence / 2, count - 1) * error
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


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for a probability from 0.5 to below 1."""
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no quantile at {probability} with {degrees} degrees of freedom.")
    low, high = 0.0, 1.0
    while t_distribution(high, degrees) < probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        if t_distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def t_distribution(value: float, degrees: int) -> float:
    """The share of Student's t below `value`, which is 0 or more.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(value / math.sqrt(degrees))
    cos2, is_odd = math.cos(angle) ** 2, degrees % 2
    term, total = 1.0, 0.0
    for k in range(1 + is_odd, degrees, 2):
        total += term
        term *= cos2 * k / (k + 1)
    if is_odd:
        inside = 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    else:
        inside = math.sin(angle) * total
    return (1 + inside) / 2


def share_interval(found: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of the share that `found` of `total` estimate; 0 to 1 of none."""
    if total == 0:
        return Interval(math.nan, 0.0, 1.0)
    z, share = NormalDist().inv_cdf(0.5 + confidence / 2), found / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / (1 + z * z / total)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
