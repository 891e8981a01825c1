"""LESS: gradients of the targets against the steps that Adam would take for candidates."""

from typing import Annotated

import msgspec

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.registry import baseline
from dsdm.config import Config
from dsdm.precision import Precision
from dsdm.selection import Scores

BACKWARD_PASSES = 3.0
"""What a forward and a backward pass cost together, in forward passes."""


class LessConfig(Config):
    """Adam's steps for candidates against targets' gradients (Xia et al., ICML 2024)."""

    embeddings: bool = True
    """Whether gradients in the embeddings and the output layer count too, beside the blocks' linear
    layers."""
    batch_tokens: Annotated[int, msgspec.Meta(ge=1)] = 8192
    """Tokens in one forward and backward pass, padding included."""
    precision: Precision = "auto"
    """Of candidates' gradients; those of targets are float32."""


@baseline(
    "less",
    help="Adam's steps for candidates against targets' gradients (Xia et al., ICML 2024).",
    settings=LessConfig,
    reads_proxies=True,
    needs_moments=True,
    passes=lambda settings, num_proxies, num_checkpoints: BACKWARD_PASSES * num_checkpoints,
)
def less(inputs: BaselineInputs, settings: LessConfig) -> Scores:
    """The best of the targets' LESS scores, each the weighted mean over the proxies' checkpoints.

    One pass of `inputs.advance` a checkpoint. Targets without weight do not count.
    """
    from dsdm.baselines.less_math import less_scores

    return less_scores(inputs, settings)
