"""Sets how a direction is scored forward."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import EXACT_PASSES, FORWARD_PASSES, exact_scores, score_forward
from dsdm.errors import NumericalError
from dsdm.learners.protocol import Examples, Learner
from dsdm.precision import Precision, uses_bfloat16

SHRINKS = (1.0, 1 / 4, 1 / 16)
"""Parts of the largest step that are tried: curvature shows at large ones, rounding at small."""
FINER = (1 / 64, 1 / 256)
"""Those that are tried in float32 where the others agree with the derivative less than this:"""
GOOD = 0.999


@dataclass(frozen=True)
class Calibrated:
    """What a direction does to the calibration examples."""

    spread: float
    """Standard deviation of the exact scores, per unit of the direction."""
    forward: ForwardStep
    """How candidates are scored along it."""
    passes: float
    """Forward passes over the examples that it took."""


def calibrate(
    learner: Learner, direction: Direction, examples: Examples, config: ScoresConfig
) -> Calibrated:
    """Sets the step for `score_forward`, from its effect, to what agrees best with the derivative.

    Where the learner's precision is `auto` and bf16 does not agree, it is float32.

    Raises:
        NumericalError: no step makes the two agree.
    """
    exact = exact_scores(learner, direction, examples)
    spread = float(np.std(exact))
    if not spread > 0 or not np.isfinite(spread):
        raise NumericalError(
            f"direction {direction.estimator} for {direction.target}: the spread of its scores on "
            f"{len(exact)} rows is {spread}. The direction is not usable."
        )
    tried: list[ForwardStep] = []
    for precision, shrinks, enough in _attempts(learner, config.min_correlation):
        reader = learner.using(precision=precision)
        for shrink in shrinks:
            step = ForwardStep(shrink * config.effect_nats / spread, 0.0, precision)
            forward = score_forward(reader, direction, examples, step.step)
            tried.append(replace(step, correlation=_correlation(exact, forward)))
        best = max(tried, key=lambda step: step.correlation)
        if best.correlation >= enough:
            return Calibrated(spread, best, EXACT_PASSES + FORWARD_PASSES * len(tried))
    each = (f"{s.correlation:.4f} at step {s.step:.3g} in {s.precision}" for s in tried)
    is_bf16 = learner.precision == "bfloat16"
    raise NumericalError(
        f"direction {direction.estimator} for {direction.target}: forward scores disagree with the "
        f"exact derivative on {len(exact)} rows: correlation {', '.join(each)}; "
        f"{config.min_correlation} is required. Train the proxies longer, or set scores.mode to "
        "backward" + (" or scores.precision to auto." if is_bf16 else ".")
    )


def _attempts(
    learner: Learner, least: float
) -> Iterator[tuple[Precision, tuple[float, ...], float]]:
    """Precisions and parts of the largest step, the fastest first, and the agreement to stop at."""
    device = next(learner.model.parameters()).device
    if uses_bfloat16(device, learner.precision):
        yield "bfloat16", SHRINKS, least
    if learner.precision != "bfloat16":
        yield "float32", SHRINKS, max(GOOD, least)
        yield "float32", FINER, least


def _correlation(
    exact: Float[np.ndarray, " examples"], forward: Float[np.ndarray, " examples"]
) -> float:
    # Scores that are all the same correlate with nothing: NaN.
    return float(np.nan_to_num(np.corrcoef(exact, forward)[0, 1], nan=-1.0))
