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

and what is exactly right about the expected loss correlates with it by sqrt(R), the noise ceiling:
sqrt(2 r / (1 + r)) for two seeds. That is exact for Pearson's correlation; with ranks it is within
0.02 where the losses are about normal.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dsdm.evaluation.bank import Bank
from dsdm.evaluation.comparison import ALL_TARGETS
from dsdm.evaluation.correlations import resample_counts, resampled_rank_correlations
from dsdm.evaluation.intervals import CONFIDENCE, REPLICATES, Interval, bootstrap_interval

CEILING = "noise ceiling"
RANDOM = "random"

TargetScores = Mapping[str, np.ndarray]
"""By target: a score for each candidate, higher = keep, shape (candidates,)."""


@dataclass(frozen=True)
class LdsTable:
    """The LDS of several estimators on one bank, with what is needed to compare them in pairs.

    `samples` holds, by estimator, kind of subset and target, the LDS over all subsets and, behind
    it, over each bootstrap resample of them. All estimators share the resamples. `CEILING` is among
    the estimators where subsets were trained with several seeds, and the mean of targets
    (`ALL_TARGETS`) among the targets.
    """

    samples: Mapping[tuple[str, str, str], Float[np.ndarray, " samples"]]

    @property
    def estimators(self) -> tuple[str, ...]:
        """In the order given, the noise ceiling last."""
        return tuple(dict.fromkeys(name for name, _, _ in self.samples))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of subsets."""
        return tuple(dict.fromkeys(kind for _, kind, _ in self.samples))

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, their mean last."""
        return tuple(dict.fromkeys(target for _, _, target in self.samples))

    def interval(self, estimator: str, kind: str, target: str = ALL_TARGETS) -> Interval:
        """An estimator's LDS, with the percentile interval over resampled subsets."""
        return _interval(self.samples[estimator, kind, target])

    def difference(self, first: str, second: str, kind: str, target: str = ALL_TARGETS) -> Interval:
        """How much higher the first estimator's LDS is, paired: over the same resamples."""
        found = self.samples[first, kind, target] - self.samples[second, kind, target]
        return _interval(found)


def lds_table(
    bank: Bank,
    estimators: Mapping[str, TargetScores],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> LdsTable:
    """The LDS of each estimator for each target, by kind of subset, and the noise ceilings.

    Args:
        bank: The retrained models.
        estimators: By name: the scores for each of the bank's targets.
        seed: Draws the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        ValueError: scores for a target are missing, or not one for each candidate.
    """
    for name, scores in estimators.items():
        _check_scores(bank, name, scores)
    samples: dict[tuple[str, str, str], np.ndarray] = {}
    for kind in dict.fromkeys(bank.kinds):
        part = bank.of_kind(kind)
        counts = resample_counts(len(part.kinds), replicates, seed)
        for name, scores in estimators.items():
            found = _lds(part, scores, counts)
            samples |= {(name, kind, target): values for target, values in found.items()}
        ceilings = _ceilings(part, counts)
        samples |= {(CEILING, kind, target): values for target, values in ceilings.items()}
    return LdsTable(samples)


def random_table(bank: Bank, *, draws: int = 1000, seed: int = 0) -> LdsTable:
    """The LDS of `draws` random scorings: their mean, and the range that 95% of them are in.

    One random scoring need not be near 0: on skewed subsets it is about as good as a random opinion
    of each source. An estimator whose LDS is within the range is no better than chance, whatever
    its own interval says, which knows of the subsets drawn and not of the scores.
    """
    scores = np.random.default_rng(seed).random((draws, bank.num_candidates))
    samples: dict[tuple[str, str, str], np.ndarray] = {}
    for kind in dict.fromkeys(bank.kinds):
        part = bank.of_kind(kind)
        once = np.ones((1, len(part.kinds)), np.int64)
        # A scoring that looks at no target is the same for all.
        found = [_lds(part, dict.fromkeys(part.losses, values), once) for values in scores]
        for target in found[0]:
            values = np.concatenate([one[target] for one in found])
            samples[RANDOM, kind, target] = np.concatenate([[values.mean()], values])
    return LdsTable(samples)


def predicted_utilities(
    bank: Bank, scores: Float[np.ndarray, " candidates"]
) -> Float[np.ndarray, " subsets"]:
    """What the scores say of each subset: their mean over its learned tokens.

    A score is of a mean over a candidate's learned tokens, and so is the loss of a training step:
    a candidate with more of them is more of the training. All subsets are trained on for as long,
    so for candidates of one length this ranks subsets as the sum of scores does, and a constant
    added to all scores changes nothing.
    """
    sums = bank.inclusion @ (scores * bank.tokens)
    return np.asarray(sums / (bank.inclusion @ bank.tokens))


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
    bank: Bank, scores: TargetScores, counts: Int[np.ndarray, "samples subsets"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    found = {}
    for target, losses in bank.losses.items():
        predicted = predicted_utilities(bank, scores[target])
        found[target] = _correlations(predicted, -losses.mean(axis=1), counts)
    return _with_mean(found)


def _ceilings(
    bank: Bank, counts: Int[np.ndarray, "samples subsets"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """By target; nothing where each subset was trained once."""
    found = {}
    for target, losses in bank.losses.items():
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
    """Spearman's correlation in each sample; what is constant predicts nothing and counts as 0."""
    return np.asarray(np.nan_to_num(resampled_rank_correlations(first, second, counts), nan=0.0))


def _with_mean(
    found: dict[str, Float[np.ndarray, " samples"]],
) -> dict[str, Float[np.ndarray, " samples"]]:
    return found | {ALL_TARGETS: np.mean(list(found.values()), axis=0)}


def _interval(samples: Float[np.ndarray, " samples"]) -> Interval:
    return bootstrap_interval(float(samples[0]), samples[1:], CONFIDENCE)


def _check_scores(bank: Bank, name: str, scores: TargetScores) -> None:
    missing = [target for target in bank.losses if target not in scores]
    if missing:
        raise ValueError(f"{name}: no scores for the target {missing[0]!r}.")
    wrong = _wrong_lengths(bank, scores.values())
    if wrong:
        raise ValueError(f"{name}: {wrong[0]} scores for {bank.num_candidates} candidates.")


def _wrong_lengths(bank: Bank, scores: Iterable[np.ndarray]) -> list[int]:
    return [len(values) for values in scores if len(values) != bank.num_candidates]
