"""Linear datamodeling scores: how well an estimator predicts what retraining does.

For a subset S of the pool, scores predict sum over x in S of score(x), by which S is better than
another subset (for examples of unequal length their mean over S's tokens); retraining on S measures
minus the target's mean loss. The LDS is Spearman's rank correlation of the two over random subsets
(Ilyas et al., 2022; Park et al., 2023, TRAK, section 2).
Here the prediction is for a target, the mean over its examples, as selection uses it; the papers
take the correlation of each example by itself and average those.

Retraining is noisy, so even the true datamodel stays below 1. Where each subset is trained with J
seeds, and r is the mean correlation between two seeds, the mean of the seeds has the reliability

    R = J r / (1 + (J - 1) r)                                       (Spearman-Brown)

and an exact prediction of the expected loss correlates with it by sqrt(R), the noise ceiling:
sqrt(2 r / (1 + r)) for two seeds. That is exact for Pearson's correlation; with ranks it is within
0.02 where the losses are about normal.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.correlations import resample_counts, resampled_rank_correlations
from dsdm.evaluation.intervals import CONFIDENCE, REPLICATES, Interval, bootstrap_interval

CEILING = "noise ceiling"
RANDOM = "random"

TargetScores = Mapping[str, np.ndarray]
"""By target: a score for each candidate, higher = keep."""


@dataclass(frozen=True)
class Retrained:
    """Losses of models retrained on random subsets of some candidates."""

    inclusion: Bool[np.ndarray, "subsets candidates"]
    """Whether each candidate was in each subset."""
    tokens: Int[np.ndarray, " candidates"]
    """Tokens that are learned in each candidate: in a conversation, those of its completions."""
    losses: Mapping[str, Float[np.ndarray, "subsets seeds"]]
    """By target: the mean loss of its examples, in nats a target token."""


@dataclass(frozen=True)
class LdsTable:
    """The LDS of several methods on the same retrained models, and all that comparing them needs.

    `samples` holds, by method and target, the LDS over all subsets and, behind it, over each
    bootstrap resample of them. All methods share the resamples. `CEILING` is among the methods
    where subsets were trained with several seeds, and the mean of targets (`ALL_TARGETS`) among the
    targets.
    """

    samples: Mapping[tuple[str, str], Float[np.ndarray, " samples"]]

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order given, the noise ceiling last."""
        return tuple(dict.fromkeys(method for method, _ in self.samples))

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, their mean last."""
        return tuple(dict.fromkeys(target for _, target in self.samples))

    def interval(self, method: str, target: str = ALL_TARGETS) -> Interval:
        """A method's LDS, with the percentile interval over resampled subsets."""
        return _interval(self.samples[method, target])

    def difference(self, first: str, second: str, target: str = ALL_TARGETS) -> Interval:
        """How much higher the first method's LDS is, paired: over the same resamples."""
        return _interval(self.samples[first, target] - self.samples[second, target])


def lds_table(
    retrained: Retrained,
    methods: Mapping[str, TargetScores],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> LdsTable:
    """The LDS of each method for each target, and the noise ceilings.

    Args:
        retrained: The models.
        methods: By name: the scores for each of the targets.
        seed: Draws the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        ValueError: scores for a target are missing, or not one for each candidate.
    """
    count = len(retrained.tokens)
    for name, scores in methods.items():
        for target in retrained.losses:
            if target not in scores:
                raise ValueError(f"{name}: no scores for the target {target!r}.")
            if len(scores[target]) != count:
                raise ValueError(f"{name}: {len(scores[target])} scores for {count} candidates.")
    counts = resample_counts(len(retrained.inclusion), replicates, seed)
    found = {name: _lds(retrained, scores, counts) for name, scores in methods.items()}
    found[CEILING] = _ceilings(retrained, counts)
    return LdsTable(
        {(name, target): one for name, lds in found.items() for target, one in lds.items()}
    )


def random_table(retrained: Retrained, *, draws: int = 1000, seed: int = 0) -> LdsTable:
    """The LDS of `draws` random scorings: their mean, and the range that 95% of them are in.

    One random scoring need not be near 0: on subsets skewed by source it is about as good as a
    random opinion of each source. A method whose LDS is within the range is no better than chance,
    whatever its own interval is, for that varies the subsets and not the scores.
    """
    scores = np.random.default_rng(seed).random((draws, len(retrained.tokens)))
    once = np.ones((1, len(retrained.inclusion)), np.int64)
    # A scoring that looks at no target is the same for all.
    found = [_lds(retrained, dict.fromkeys(retrained.losses, one), once) for one in scores]
    samples = {}
    for target in found[0]:
        values = np.concatenate([one[target] for one in found])
        samples[RANDOM, target] = np.concatenate([[values.mean()], values])
    return LdsTable(samples)


def predicted_utilities(
    inclusion: Bool[np.ndarray, "subsets candidates"],
    tokens: Int[np.ndarray, " candidates"],
    scores: Float[np.ndarray, " candidates"],
) -> Float[np.ndarray, " subsets"]:
    """The utility of each subset by the scores: their mean over its learned tokens.

    A score is of a mean over a candidate's learned tokens, and so is the loss of a training step:
    a candidate with more of them is more of the training. All subsets are trained on for as long,
    so for candidates of one length this ranks subsets as the sum of scores does, and a constant
    added to all scores changes nothing.
    """
    return np.asarray(inclusion @ (scores * tokens) / (inclusion @ tokens))


def noise_ceiling(
    correlations: Float[np.ndarray, " samples"], num_seeds: int
) -> Float[np.ndarray, " samples"]:
    """sqrt(J r / (1 + (J - 1) r)) for correlations r between seeds; 0 where r is not above 0.

    Args:
        correlations: Mean correlation between the losses of two seeds, over subsets.
        num_seeds: J, the trainings whose mean loss is predicted.
    """
    r = np.maximum(correlations, 0.0)
    return np.asarray(np.sqrt(num_seeds * r / (1 + (num_seeds - 1) * r)))


def _lds(
    retrained: Retrained, scores: TargetScores, counts: Int[np.ndarray, "samples subsets"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    found = {}
    for target, losses in retrained.losses.items():
        predicted = predicted_utilities(retrained.inclusion, retrained.tokens, scores[target])
        found[target] = _correlations(predicted, -losses.mean(axis=1), counts)
    return _with_mean(found)


def _ceilings(
    retrained: Retrained, counts: Int[np.ndarray, "samples subsets"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """By target; nothing where each subset was trained once."""
    found = {}
    for target, losses in retrained.losses.items():
        pairs = [
            _correlations(first, second, counts)
            for first, second in itertools.combinations(losses.T, 2)
        ]
        if pairs:
            found[target] = noise_ceiling(np.mean(pairs, axis=0), losses.shape[1])
    return _with_mean(found) if found else {}


def _correlations(
    first: Float[np.ndarray, " subsets"],
    second: Float[np.ndarray, " subsets"],
    counts: Int[np.ndarray, "samples subsets"],
) -> Float[np.ndarray, " samples"]:
    """Spearman's correlation in each sample; a constant predicts nothing, so it has 0."""
    found = resampled_rank_correlations(first, second, counts)
    return np.asarray(np.nan_to_num(found, nan=0.0))


def _with_mean(
    found: dict[str, Float[np.ndarray, " samples"]],
) -> dict[str, Float[np.ndarray, " samples"]]:
    return found | {ALL_TARGETS: np.mean(list(found.values()), axis=0)}


def _interval(samples: Float[np.ndarray, " samples"]) -> Interval:
    return bootstrap_interval(float(samples[0]), samples[1:], CONFIDENCE)
