"""What each proxy says of one sample of the pool's rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.checking.measured import ProxyLoss
from dsdm.checking.norms import gradient_norms
from dsdm.checking.proxies import token_mean
from dsdm.checking.slopes import row_slopes, scored_direction, scorer_slopes, target_slopes
from dsdm.data.sequences import Rows, Subset
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.config import MIX
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import exact_scores, layers_named
from dsdm.evaluation.evaluate import example_losses
from dsdm.learners.causal_lm import CausalLM


@dataclass(frozen=True)
class ProxySample:
    """One proxy's view of the sample. Scores are in units of the directions' spread."""

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
    """Everything that the check asks of one proxy.

    Args:
        learner: The proxy as it reads candidates.
        directions: The finished ones, by target and `mix`.
        steps: Those of their calibration, empty where the run scores backward.
        rows: The sample of the pool.
        tune: Each target's tune examples.
        num_exact: Rows on which scorer and exact derivative are compared.
    """
    slopes = row_slopes(learner, list(directions.values()), rows)
    name, step = scored_direction(steps, MIX)
    few = Subset(rows, spread_out(len(rows.lengths), num_exact))
    layers = layers_named(learner, directions[MIX].tensors)
    return ProxySample(
        scores=dict(zip(directions, slopes.T, strict=True)),
        norms=gradient_norms(learner, layers, rows),
        losses=example_losses(
            learner.model, rows, batch_tokens=learner.batch_tokens, precision=learner.precision
        ),
        scored=scorer_slopes(learner, directions[name], step, few),
        exact=exact_scores(learner, directions[name], few),
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
    """Those of the arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def spread_out(count: int, wanted: int) -> Int[np.ndarray, " wanted"]:
    """`wanted` different numbers below `count`, evenly apart; all where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))


def other_rows(
    taken: Int[np.ndarray, " rows"], count: int, seed: int
) -> Int[np.ndarray, " others"] | None:
    """As many random numbers below `count` as are taken, and none of these.

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
    """What the proxy has learned, on the sample's rows that it was not trained on.

    Args:
        sample: The proxy's.
        lengths: Tokens in each row of the sample.
        seen: Whether the proxy was trained on it.
        training: The last loss of its training.
        unigram: Entropy of its training tokens' frequencies.
    """
    return ProxyLoss(training, token_mean(sample.losses[~seen], lengths[~seen]), unigram)
