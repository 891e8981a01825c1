"""From proxies' samples to what the verdict needs to know: no model is read here."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.checking.groups import Group
from dsdm.checking.measured import Agreement, Confounds, ProbeGroup
from dsdm.checking.reliability import agreement, share_between, standardized_difference
from dsdm.checking.sample import ProxySample
from dsdm.datamodel.config import MIX
from dsdm.evaluation.correlations import spearman
from dsdm.evaluation.intervals import Interval, bootstrap_interval, bootstrap_means

Columns = Mapping[str, np.ndarray]


def combined_scores(samples: Sequence[ProxySample]) -> dict[str, Float[np.ndarray, " rows"]]:
    """The mean over proxies of the scores for the mix and each target: what selects."""
    return {
        name: np.mean([sample.scores[name] for sample in samples], axis=0)
        for name in samples[0].scores
    }


def agreement_of_proxies(samples: Sequence[ProxySample]) -> list[Agreement]:
    """The agreement of the proxies' scores for the mix and for each target."""
    names = [MIX, *(name for name in samples[0].scores if name != MIX)]
    return [
        agreement(name, [sample.scores[name] for sample in samples], len(samples)) for name in names
    ]


def target_slopes(samples: Sequence[ProxySample], seed: int) -> dict[str, Interval]:
    """The mean score of each target's tune examples, with its bootstrap over examples."""
    slopes = {}
    for name in samples[0].tune:
        values = np.mean([sample.tune[name] for sample in samples], axis=0)
        means = bootstrap_means(values, seed=seed)
        slopes[name] = bootstrap_interval(float(values.mean()), means)
    return slopes


def confounds_of(
    samples: Sequence[ProxySample],
    seen: Sequence[Bool[np.ndarray, " rows"]],
    lengths: Int[np.ndarray, " rows"],
    sources: Int[np.ndarray, " rows"],
) -> Confounds:
    """What the scores for the mix go with, on the sample.

    Args:
        samples: Each proxy's.
        seen: Which rows each proxy was trained on.
        lengths: Tokens in each row.
        sources: A number for each row's source.
    """
    scores = combined_scores(samples)[MIX]
    norms = np.mean([sample.norms for sample in samples], axis=0)
    pairs = zip(samples, seen, strict=True)
    found = [standardized_difference(sample.scores[MIX], rows) for sample, rows in pairs]
    known = [value for value in found if value is not None]
    return Confounds(
        length=spearman(scores, lengths.astype(np.float64)),
        gradient_norm=spearman(scores, norms),
        between_sources=share_between(scores, sources),
        num_sources=len(np.unique(sources)),
        seen=float(np.mean(known)) if known else None,
    )


def gain_over_random(
    groups: Sequence[Group], reductions: Columns, seed: int
) -> dict[str, Interval]:
    """How much more each target's loss fell for high groups than for random ones, in nats.

    The interval is a bootstrap over groups of each kind.
    """
    kinds = np.array([kind for kind, _ in groups])
    gains = {}
    for name, values in reductions.items():
        high, random = values[kinds == "high"], values[kinds == "random"]
        means = bootstrap_means(high, seed=seed) - bootstrap_means(random, seed=seed + 1)
        gains[name] = bootstrap_interval(float(high.mean() - random.mean()), means)
    return gains


def probe_groups(
    groups: Sequence[Group],
    scores: Float[np.ndarray, " groups"],
    reductions: Columns,
) -> list[ProbeGroup]:
    """One line for each group, in their order."""
    return [
        ProbeGroup(
            kind=kind,
            rows=len(rows),
            score=float(scores[number]),
            reductions={name: float(values[number]) for name, values in reductions.items()},
        )
        for number, (kind, rows) in enumerate(groups)
    ]
