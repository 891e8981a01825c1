"""What a check has measured: the numbers that the verdict follows from and the report shows."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from dsdm.evaluation.intervals import Interval

GroupKind = Literal["high", "random", "low"]
KINDS: tuple[GroupKind, ...] = get_args(GroupKind)


@dataclass(frozen=True)
class Curvature:
    """What the curvature was fitted on."""

    rows: int
    dimension: int
    """Largest dimension in which it is inverted."""
    damping: float
    """As a share of the mean eigenvalue."""


@dataclass(frozen=True)
class ProxyLoss:
    """What one proxy has learned, in nats a token."""

    training: float
    """At the end of its training."""
    unseen: float | None
    """On the sample's rows that it was not trained on; None: it was trained on all."""
    unigram: float
    """Entropy of its training tokens' frequencies: the loss of knowing these alone."""

    @property
    def worst(self) -> float:
        """The greater of both losses: what was learned by heart does not count."""
        return self.training if self.unseen is None else max(self.training, self.unseen)

    @property
    def learned(self) -> float:
        """Share of the unigram entropy by which the loss is below it; 0 or less is nothing."""
        return 1 - self.worst / self.unigram


@dataclass(frozen=True)
class Agreement:
    """How far several measurements of the same scores have the same order."""

    name: str
    """A target, or `mix`."""
    pairs: int
    correlation: float | None
    """Mean of Spearman's correlation over the pairs; None: not known."""
    reliability: float | None
    """Of the scores that the measurements make up together (Spearman-Brown), 0 to 1."""


@dataclass(frozen=True)
class Confounds:
    """What else the scores go with, on the sample; None where that can't be told."""

    length: float | None
    """Spearman's correlation with the row's tokens."""
    gradient_norm: float | None
    """Spearman's correlation with the norm of the row's gradient."""
    between_sources: float | None
    """Share of the variance between sources (eta squared), 0 to 1."""
    num_sources: int
    seen: float | None
    """Mean score of rows that the proxy was trained on less that of others, in spreads."""


@dataclass(frozen=True)
class ProbeGroup:
    """One short training."""

    kind: GroupKind
    rows: int
    """Distinct rows in the group."""
    score: float
    """Mean score of the rows that were trained on, by tokens."""
    reductions: dict[str, float]
    """By how much each target's loss on its tune part fell, in nats."""


@dataclass(frozen=True)
class Probe:
    """Whether training on what scores higher lowers the loss more."""

    groups: list[ProbeGroup]
    gain: dict[str, Interval]
    """By how much more each target's loss fell for high groups than for random ones, in nats."""
    correlations: dict[str, Interval | None]
    """Spearman's of the groups' mean scores with their reductions, for the mix and each target."""
    reliability: float | None
    """Of the reductions: agreement between halves of the tune examples (Spearman-Brown)."""
    steps: int
    tokens: int
    """Trained on in all groups together."""
    share_of_proxy: float
    """Those tokens as a multiple of the ones that one proxy was trained on."""


@dataclass(frozen=True)
class Measurements:
    """Everything that a check measures."""

    method: str
    rows: int = 0
    """In the sample."""
    failure: str | None = None
    """Why there is nothing to measure: proxies or directions could not be made."""
    curvature: Curvature | None = None
    """None for a method that has none."""
    proxies: list[ProxyLoss] = field(default_factory=list)
    between_proxies: list[Agreement] = field(default_factory=list)
    between_halves: list[Agreement] = field(default_factory=list)
    """Directions of two random halves of each target."""
    between_curvatures: Agreement | None = None
    """The same direction with the curvature of another sample; None for a method without."""
    scorer: list[float | None] = field(default_factory=list)
    """For each proxy, Pearson's correlation of its scores with the exact derivative."""
    target_slopes: dict[str, Interval] = field(default_factory=dict)
    """Mean score of each target's own tune examples; the direction was made to raise it."""
    confounds: Confounds | None = None
    probe: Probe | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether to trust the scores, and why not."""

    trust: bool
    reasons: list[str]
    """Against trusting; empty where `trust` is true."""
    warnings: list[str]
    """Worth knowing, and no reason by themselves."""


@dataclass(frozen=True)
class Check:
    """A finished check: what the report shows."""

    measured: Measurements
    verdict: Verdict
