"""What one proxy gives on a sample of the pool's rows, and what it has learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.checking.measured import Curvature, ProxyLoss
from dsdm.checking.slopes import gradient_norms, row_slopes, scorer_slopes, target_slopes
from dsdm.config import Config
from dsdm.data.sequences import Rows, Subset
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.config import MIX
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.estimators import CurvatureConfig, Workload, known_estimator
from dsdm.datamodel.estimators.costs import LayerShape
from dsdm.datamodel.scoring import exact_scores, layers_named
from dsdm.evaluation.losses import example_losses
from dsdm.learners.causal_lm import CausalLM


@dataclass(frozen=True)
class ProxySample:
    """One proxy's figures on the sample. Scores are in units of the directions' spread."""

    scores: Mapping[str, Float[np.ndarray, " rows"]]
    """For the mix and for each target."""
    norms: Float[np.ndarray, " rows"]
    """Of the rows' gradients in the layers that the directions move."""
    losses: Float[np.ndarray, " rows"]
    """In nats a token."""
    scored: Float[np.ndarray, " exact_rows"]
    """Scores of some of the rows by the run's own scorer."""
    exact: Float[np.ndarray, " exact_rows"]
    """The exact derivative of the same rows' outputs."""
    tune: Mapping[str, Float[np.ndarray, " examples"]]
    """Scores for the mix of each target's own tune examples."""


def sample_proxy(
    learner: CausalLM,
    directions: Mapping[str, Direction],
    steps: Mapping[str, ForwardStep],
    rows: Subset,
    tune: Mapping[str, Rows],
    num_exact: int,
) -> ProxySample:
    """Everything that the check measures of one proxy.

    Args:
        learner: The proxy as it reads candidates.
        directions: The finished ones, by target and `mix`.
        steps: Those of their calibration, empty where the run scores backward.
        rows: The sample of the pool.
        tune: Each target's tune examples.
        num_exact: Rows on which scorer and exact derivative are compared.
    """
    slopes = row_slopes(learner, list(directions.values()), rows)
    # With `scores.per_target` the mix is the sum of targets' scores and has no step of its own.
    scored = MIX if MIX in steps or not steps else next(iter(steps))
    few = Subset(rows, spread_out(len(rows.lengths), num_exact))
    layers = layers_named(learner, directions[MIX].tensors)
    return ProxySample(
        scores=dict(zip(directions, slopes.T, strict=True)),
        norms=gradient_norms(learner, layers, rows),
        losses=example_losses(
            learner.model, rows, batch_tokens=learner.batch_tokens, precision=learner.precision
        ),
        scored=scorer_slopes(learner, directions[scored], steps.get(scored), few),
        exact=exact_scores(learner, directions[scored], few),
        tune={
            target: target_slopes(learner, directions[MIX], examples)
            for target, examples in tune.items()
        },
    )


def save_sample(sample: ProxySample, path: Path) -> None:
    """Writes the sample as one .npz file, the same bytes for the same numbers."""
    fields = {name: getattr(sample, name) for name in ("norms", "losses", "scored", "exact")}
    fields |= {f"scores.{name}": values for name, values in sample.scores.items()}
    fields |= {f"tune.{name}": values for name, values in sample.tune.items()}
    np.savez(path, allow_pickle=False, **fields)


def load_sample(path: Path) -> ProxySample:
    """The sample that `save_sample` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        fields = {name: arrays[name] for name in ("norms", "losses", "scored", "exact")}
        return ProxySample(
            scores=columns_under("scores.", arrays), tune=columns_under("tune.", arrays), **fields
        )


def columns_under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def spread_out(count: int, wanted: int) -> Int[np.ndarray, " wanted"]:
    """`wanted` different numbers below `count`, evenly apart; all where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))


def other_rows(
    taken: Int[np.ndarray, " rows"], count: int, seed: int
) -> Int[np.ndarray, " others"] | None:
    """Random numbers below `count` that are not in `taken`, as many as these.

    Fewer where fewer are left; None where less than half as many are.
    """
    left = np.setdiff1d(np.arange(count), taken)
    wanted = min(len(taken), len(left))
    if 2 * wanted < len(taken):
        return None
    return np.sort(np.random.default_rng(seed).choice(left, wanted, replace=False))


def proxy_loss(
    sample: ProxySample,
    lengths: Int[np.ndarray, " rows"],
    seen: Bool[np.ndarray, " rows"],
    training: float,
    unigram: float,
) -> ProxyLoss:
    """The proxy's loss in training and on the sample's rows that it was not trained on.

    Args:
        sample: The proxy's.
        lengths: Tokens in each row of the sample.
        seen: Whether the proxy was trained on it.
        training: The last loss of its training.
        unigram: Entropy of its training tokens' frequencies.
    """
    predicted = np.maximum(lengths[~seen] - 1, 0)
    unseen = float(np.average(sample.losses[~seen], weights=predicted)) if predicted.sum() else None
    return ProxyLoss(training, unseen, unigram)


def unigram_entropy(rows: Rows) -> float:
    """The entropy of the rows' token frequencies, in nats: the least loss that these allow.

    Only tokens whose prediction counts are counted, so never a row's first. Rows must hold many
    times as many tokens as the vocabulary has entries: with few tokens the entropy is too low.
    """
    read = [rows.row(i) for i in range(len(rows.lengths))]
    predicted = [row.tokens[row.is_counted] for row in read]
    counts = np.bincount(np.concatenate(predicted).astype(np.int64))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def curvature_of(
    layers: Sequence[LayerShape], estimator: str, settings: Config, pool_rows: int
) -> Curvature | None:
    """What the estimator's curvature is fitted on; None for one that has none."""
    if not isinstance(settings, CurvatureConfig):
        return None
    cost = known_estimator(estimator).cost(settings, Workload(layers))
    return Curvature(min(settings.curvature_rows, pool_rows), cost.dimension, settings.damping)
