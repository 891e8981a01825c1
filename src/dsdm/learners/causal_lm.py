"""A causal language model as a learner: its examples are rows of tokens."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import IGNORED, Batch, iter_batches
from dsdm.data.sequences import Row, Rows, Subset, num_rows
from dsdm.learners.factors import Factors
from dsdm.learners.layers import Layer
from dsdm.learners.lm_factors import factors_of
from dsdm.learners.lm_layers import moved_layers
from dsdm.learners.protocol import Learner
from dsdm.lm.config import Output
from dsdm.lm.model import flops_per_token, training_passes
from dsdm.lm.outputs import (
    example_outputs,
    mean_outputs,
    plain_token_outputs,
    sampled_labels,
    token_outputs,
    weighted_outputs,
)
from dsdm.precision import Precision, autocast

CPU_TOKENS = 4096
"""Most tokens in a forward pass on the CPU: what a layer makes of twice as many falls out of the
cache, and takes 6% to 9% longer (experiments/LOG.md, 2026-11-28, ninth session)."""


@dataclass(frozen=True, eq=False)
class CausalLM(Learner):
    """A `transformers` language model that reads rows of tokens.

    Examples are `Rows`, or a sequence of which each item is an array of token ids or a mapping with
    `input_ids` and, optionally, `labels`, where IGNORED marks tokens that are not to be predicted.
    """

    model: PreTrainedModel
    """In evaluation mode, with dropout off."""
    output: Output = "loglik"
    """What the output of an example is the mean of, over its counted tokens."""
    context_share: float = 0.3
    """What a target's context counts for, all of its tokens together."""
    batch_tokens: int = 8192
    """Tokens in one pass, padding included; without gradients on the CPU, CPU_TOKENS at most."""
    precision: Precision = "float32"

    def num(self, examples: Any) -> int:
        """How many examples there are."""
        return num_rows(_as_rows(examples))

    def sizes(self, examples: Any) -> Int[np.ndarray, " examples"]:
        """Tokens in each example."""
        return np.asarray(_as_rows(examples).lengths)

    def take(self, examples: Any, indices: Int[np.ndarray, " taken"]) -> Subset:
        """Some of the examples, in the order of `indices`."""
        return Subset(_as_rows(examples), indices)

    def batches(
        self, examples: Any, *, forward_only: bool = False
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """All examples once, longest first, padded to the longest of each batch."""
        is_limited = forward_only and self.model.device.type == "cpu"
        budget = min(self.batch_tokens, CPU_TOKENS) if is_limited else self.batch_tokens
        return iter_batches(_as_rows(examples), budget, self.model.device)

    def outputs(self, model: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """The mean over each example's counted tokens."""
        with autocast(self.model.device, self.precision):
            return example_outputs(model, batch, self.output)

    def target_outputs(self, model: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """The same, in which each example's context has its share."""
        with autocast(self.model.device, self.precision):
            return weighted_outputs(model, batch, self.output, self.context_share)

    def token_outputs(self, model: Any, batch: Batch) -> Float[Tensor, "batch seq"]:
        """The output of each token, 0 where it does not count."""
        with autocast(self.model.device, self.precision):
            return token_outputs(model, batch, self.output)

    def plain_outputs(self, model: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """`outputs` through the model's own logits, which have a derivative in forward mode."""
        return mean_outputs(plain_token_outputs(model, batch, self.output), batch.labels)

    def layers(self) -> list[Layer]:
        """The linear layers and the tables of the vocabulary; of adapters these alone."""
        return moved_layers(self.model, embeddings=True)

    def factors(self, batch: Batch, layers: Sequence[Layer]) -> dict[str, Factors]:
        """The factors of each example's output gradient, by layer name."""
        return factors_of(self.model, layers, batch, self.output, self.precision)

    def sampled(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with each counted label drawn from the model's own prediction."""
        return sampled_labels(self.model, batch, generator)

    def using(self, *, model: Any = None, precision: Precision | None = None) -> "CausalLM":
        """The same learner with another model or in another precision."""
        return dataclasses.replace(
            self, model=model or self.model, precision=precision or self.precision
        )

    def pass_flops(self, largest: int) -> float:
        """FLOPs of one forward pass for each token, in rows of up to `largest` tokens."""
        return flops_per_token(self.model, largest)

    def gradient_passes(self) -> float:
        """What a gradient in all trained weights costs in forward passes."""
        return training_passes(self.model)


class _ListedRows:
    """Rows of a sequence of token arrays or mappings."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples
        self.lengths = np.array([len(self.row(i).tokens) for i in range(len(examples))])

    def row(self, index: int) -> Row:
        example = self._examples[index]
        if not isinstance(example, Mapping):
            return Row(np.asarray(example))
        tokens = np.asarray(example["input_ids"])
        labels = example.get("labels")
        return Row(tokens, counted=None if labels is None else np.asarray(labels) != IGNORED)


def _as_rows(examples: Any) -> Rows:
    # Not isinstance(examples, Rows), which asks for all lengths.
    rows: Rows = examples if hasattr(examples, "row") else _ListedRows(examples)
    return rows
