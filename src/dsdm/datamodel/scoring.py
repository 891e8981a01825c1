"""Scores of candidates: the slope of their output along a direction, forward or backward.

`score_forward` takes two forward passes for each direction; `score_backward` one forward and one
backward pass for all directions, where they move only layers and tables. Both give the same.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from dsdm.data.batches import IGNORED, Batch, Rows, Subset, iter_batches, num_rows
from dsdm.datamodel.calibration import ForwardStep
from dsdm.datamodel.config import ScoresConfig
from dsdm.datamodel.directions import Direction
from dsdm.datamodel.gradients import Factors, factors_of
from dsdm.datamodel.layers import layers_named
from dsdm.errors import NumericalError
from dsdm.lm.config import Output, Precision
from dsdm.lm.model import autocast, uses_bfloat16
from dsdm.lm.outputs import example_outputs, plain_token_outputs

EXACT_PASSES = 4.0
"""What an exact slope costs in forward passes: forward mode, plain attention and logits."""
FORWARD_PASSES = 2.0
"""What forward scoring costs for each direction."""
BACKWARD_PASSES = 3.0
"""What backward scoring costs in forward passes, whatever the number of directions: forward,
backward without weight gradients, and the examples' gradients, which serve every direction."""

CPU_TOKENS = 4096
"""Most tokens in a forward pass on the CPU: what a layer makes of twice as many falls out of the
cache, and takes 6% to 9% longer (experiments/LOG.md, 2026-11-28, ninth session)."""

SHRINKS = (1.0, 1 / 4, 1 / 16)
"""Parts of the largest step that are tried: curvature shows at large ones, rounding at small."""
FINER = (1 / 64, 1 / 256)
"""Those that are tried in float32 where the others agree with the derivative less than this:"""
GOOD = 0.999


@dataclass(frozen=True)
class Calibration:
    """What a direction does to the calibration rows."""

    spread: float
    """Standard deviation of the exact scores: nats per unit of the direction."""
    forward: ForwardStep
    """How candidates are scored along it."""
    passes: float
    """Forward passes over the rows that it took."""


Advance = Callable[[int], None]


def calibrate(
    model: PreTrainedModel, direction: Direction, rows: Rows, output: Output, config: ScoresConfig
) -> Calibration:
    """Sets the step for `score_forward`, from its effect, to what agrees best with the derivative.

    Where the precision is left to `auto` and bf16 does not agree, it is float32.

    Raises:
        NumericalError: no step makes the two agree.
    """
    exact = exact_scores(model, direction, rows, output, config.batch_tokens)
    spread = float(np.std(exact))
    if not spread > 0 or not np.isfinite(spread):
        raise NumericalError(
            f"direction {direction.method} for {direction.target}: the spread of its scores on "
            f"{len(exact)} rows is {spread}. The direction is not usable."
        )
    tried: list[ForwardStep] = []
    for precision, shrinks, enough in _attempts(config, model.device):
        for shrink in shrinks:
            step = ForwardStep(shrink * config.effect_nats / spread, 0.0, precision)
            settings = step.settings(config)
            forward = score_forward(model, direction, rows, output, step.step, settings)
            # Scores that are all the same correlate with nothing: NaN.
            found = np.nan_to_num(np.corrcoef(exact, forward)[0, 1], nan=-1.0)
            tried.append(replace(step, correlation=float(found)))
        best = max(tried, key=lambda step: step.correlation)
        if best.correlation >= enough:
            return Calibration(spread, best, EXACT_PASSES + FORWARD_PASSES * len(tried))
    each = (f"{s.correlation:.4f} at step {s.step:.3g} in {s.precision}" for s in tried)
    raise NumericalError(
        f"direction {direction.method} for {direction.target}: forward scores disagree with the "
        f"exact derivative on {len(exact)} rows: correlation {', '.join(each)}; "
        f"{config.min_correlation} is required. Train the proxies longer, or set scores.mode to "
        "backward" + (" or scores.precision to auto." if config.precision == "bfloat16" else ".")
    )


def _attempts(
    config: ScoresConfig, device: torch.device
) -> Iterator[tuple[Precision, tuple[float, ...], float]]:
    """Precisions and parts of the largest step, the fastest first, and the agreement to stop at."""
    least = config.min_correlation
    if uses_bfloat16(device, config.precision):
        yield "bfloat16", SHRINKS, least
    if config.precision != "bfloat16":
        yield "float32", SHRINKS, max(GOOD, least)
        yield "float32", FINER, least


def random_rows(rows: Rows, count: int, seed: int) -> Subset:
    """`count` random rows in their order, all where there are fewer."""
    rng = np.random.default_rng(seed)
    count = min(count, num_rows(rows))
    return Subset(rows, np.sort(rng.choice(num_rows(rows), count, replace=False)))


def score_forward(
    model: PreTrainedModel,
    direction: Direction,
    rows: Rows,
    output: Output,
    step: float,
    config: ScoresConfig,
    advance: Advance = lambda rows: None,
) -> Float[np.ndarray, " rows"]:
    """(f(theta + step u) - f(theta - step u)) / (2 step) for every row, in nats per unit of u."""
    scores = np.zeros(len(rows.lengths))

    def keep(indices: np.ndarray, slopes: np.ndarray) -> None:
        scores[indices] = slopes
        advance(len(indices))

    outputs = partial(example_outputs, output=output)
    each_slope(model, direction, rows, outputs, step, config, keep)
    return finite(scores, direction.method)


def each_slope(
    model: PreTrainedModel,
    direction: Direction,
    rows: Rows,
    outputs: Callable[[PreTrainedModel, Batch], Tensor],
    step: float,
    config: ScoresConfig,
    keep: Callable[[np.ndarray, np.ndarray], None],
) -> None:
    """Calls `keep` with the rows' indices and the slopes of what `outputs` gives, by batches."""
    above, below = perturbed(model, direction, step), perturbed(model, direction, -step)
    batch_tokens = forward_tokens(config, model.device)
    with torch.inference_mode(), autocast(model.device, config.precision):
        for indices, batch in iter_batches(rows, batch_tokens, model.device):
            # Differences are taken in fp64: both outputs are near each other.
            upper, lower = outputs(above, batch).double(), outputs(below, batch).double()
            keep(indices, ((upper - lower) / (2 * step)).cpu().numpy())


def forward_tokens(config: ScoresConfig, device: torch.device) -> int:
    """Tokens in a forward pass on a device, padding included."""
    return min(config.batch_tokens, CPU_TOKENS) if device.type == "cpu" else config.batch_tokens


def score_backward(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    rows: Rows,
    output: Output,
    config: ScoresConfig,
    advance: Advance = lambda rows: None,
) -> Float[np.ndarray, "rows directions"]:
    """The exact slope of every row's output along each direction, in one pass.

    Directions must move the same parameters, those of layers and tables alone. Scores along one
    method's directions do not depend, to the last bit, on which other methods' are given.
    """
    layers = layers_named(model, directions[0].tensors)
    of_method: dict[str, list[int]] = {}
    for number, direction in enumerate(directions):
        of_method.setdefault(direction.method, []).append(number)
    columns = np.array([number for numbers in of_method.values() for number in numbers])
    stacks = {
        layer.name: [
            torch.stack([layer.to_matrix(directions[i].tensors) for i in numbers])
            for numbers in of_method.values()
        ]
        for layer in layers
    }
    scores = np.zeros((len(rows.lengths), len(directions)))
    for indices, batch in iter_batches(rows, config.batch_tokens, model.device):
        factors = factors_of(model, layers, batch, output, config.precision)
        slopes = sum(_contract(layer, stacks[name]) for name, layer in factors.items())
        scores[np.ix_(indices, columns)] = slopes.double().cpu().numpy()  # type: ignore[union-attr]
        advance(len(indices))
    return finite(scores, directions[0].method)


def exact_scores(
    model: PreTrainedModel, direction: Direction, rows: Rows, output: Output, batch_tokens: int
) -> Float[np.ndarray, " rows"]:
    """The slope by forward-mode differentiation, in the weights' own precision.

    For any parameters; about as costly as a training step. The oracle for both scorers.
    """
    named = dict(model.named_parameters())
    names = list(direction.tensors)
    weights = tuple(named[name].detach() for name in names)
    tangents = tuple(direction.tensors[name].to(named[name]) for name in names)
    scores = np.zeros(len(rows.lengths))
    for indices, batch in iter_batches(rows, batch_tokens, model.device):
        outputs = _outputs_of_parameters(model, names, batch, output)
        # Only the plain attention kernel has a forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            slopes = torch.func.jvp(outputs, weights, tangents)[1]
        scores[indices] = slopes.double().cpu().numpy()
    return finite(scores, direction.method)


def perturbed(model: PreTrainedModel, direction: Direction, step: float) -> PreTrainedModel:
    """A copy of the model moved by `step` along the direction; unmoved parameters are shared."""
    named = dict(model.named_parameters())
    shared = {id(p): p for name, p in named.items() if name not in direction.tensors}
    moved: PreTrainedModel = copy.deepcopy(model, memo=shared)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name in direction.tensors:
                parameter.add_(direction.tensors[name].to(parameter), alpha=step)
    return moved


def _outputs_of_parameters(
    model: PreTrainedModel, names: Sequence[str], batch: Batch, output: Output
) -> Callable[..., Tensor]:
    counted = batch.labels != IGNORED

    def outputs(*weights: Tensor) -> Float[Tensor, " batch"]:
        # The chunked outputs have no forward-mode derivative, plain logits do.
        adapter = _PlainOutputs(model, batch, output)
        prefixed = {f"model.{n}": w for n, w in zip(names, weights, strict=True)}
        values: Tensor = torch.func.functional_call(adapter, prefixed, ())
        means: Tensor = (values * counted).sum(1) / counted.sum(1).clamp(min=1)
        return means

    return outputs


class _PlainOutputs(nn.Module):
    """`plain_token_outputs` as a module, so that `functional_call` can swap the parameters."""

    def __init__(self, model: PreTrainedModel, batch: Batch, output: Output) -> None:
        super().__init__()
        self.model = model
        self.batch = batch
        self.output: Output = output

    def forward(self) -> Tensor:
        return plain_token_outputs(self.model, self.batch, self.output)


def _contract(
    factors: Factors, stacks: Sequence[Float[Tensor, "_ d_out d_in"]]
) -> Float[Tensor, "batch all_directions"]:
    """sum_t g_t^T U x_t for each example and direction U.

    The examples' gradients are formed once for all directions; each stack is applied to them by
    itself, because a matrix product's rounding depends on its width.
    """
    slopes = []
    for part in factors.parts():
        gradients = part.gradients().flatten(1)
        products = [gradients @ stack.to(gradients.dtype).flatten(1).T for stack in stacks]
        slopes.append(torch.cat(products, 1))
    return torch.cat(slopes)


def finite(scores: np.ndarray, method: str) -> np.ndarray:
    """The scores; raises NumericalError where a row has one that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(scores.reshape(len(scores), -1)).all(1))
    if len(bad):
        raise NumericalError(
            f"{method}: {len(bad)} of {len(scores)} scores are NaN or infinite, the first at row "
            f"{bad[0]}. Check the proxy's weights and training loss."
        )
    return scores
