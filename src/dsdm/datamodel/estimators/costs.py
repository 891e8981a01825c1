"""What estimators take of the pool's sample: one count, for forecasts and for what a run took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Number = int | float
FACTOR_PASSES = 2.0
"""Forward passes that an example's gradient factors take: there is no gradient in any weight."""


@runtime_checkable
class LayerShape(Protocol):
    """What a layer's costs depend on."""

    @property
    def d_in(self) -> int:
        """Inputs."""

    @property
    def d_out(self) -> int:
        """Outputs, or the vocabulary."""

    @property
    def is_table(self) -> bool:
        """Whether it is a table of a vocabulary."""

    @property
    def is_head(self) -> bool:
        """Whether logits are made by it."""


@dataclass(frozen=True)
class Workload:
    """What an estimator is asked for at one checkpoint."""

    layers: Sequence[LayerShape]
    """Those that directions move."""
    examples: Number = 0
    """In the sample of the pool."""
    size: Number = 0
    """Of the sample: tokens of text, examples where all are alike."""
    batch_examples: Number = 1
    """In one pass."""
    num_directions: int = 1
    replay: Callable[[int, float], tuple[Number, Number]] | None = None
    """Given functions and the share of the training that is followed back: the FLOPs of following
    it, for each checkpoint, and the bytes that it holds."""


@dataclass(frozen=True)
class EstimatorCost:
    """What it takes, beside the targets' gradients."""

    sample_passes: Number = 0
    """How often the sample's factors are taken."""
    flops: Number = 0.0
    """Beside those passes. Decompositions and solving are not in it."""
    cubes: Number = 0.0
    """Sum of n^3 over the sides n of the matrices that are decomposed."""
    held_bytes: Number = 0.0
    """At the same time."""
    dimension: int = 0
    """Of the largest matrix that is inverted."""


def formed_flops(layer: LayerShape, size: Number) -> Number:
    """Of the gradients of a table: of the output layer, by logits that are made again."""
    return size * 4 * layer.d_in * layer.d_out if layer.is_head else 0.0
