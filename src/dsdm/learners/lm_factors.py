"""The factors of gradients in a language model's layers and in its tables of the vocabulary.

In a table one factor is as wide as the vocabulary. For the embeddings it says which token was read,
for the output layer it is the gradient in the logits; it is held for a few examples at a time.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dsdm.data.batches import Batch, present_positions
from dsdm.learners.factors import Factors, examples_formed, layer_factors, recorded
from dsdm.learners.layers import Layer
from dsdm.lm.config import Output
from dsdm.lm.outputs import hidden_states, logit_gradients, mean_outputs, outputs_of_states
from dsdm.precision import Precision, at_least_float, autocast


@dataclass(frozen=True)
class TableFactors:
    """What a batch's gradients in a table of the vocabulary are formed of.

    Tied embeddings have both kinds.
    """

    layer: Layer
    batch: Batch
    read: Float[Tensor, "batch seq width"] | None
    """The gradient in what each token's entry gave, where the table is the embeddings."""
    states: Float[Tensor, "batch seq width"] | None
    """What the output layer read, where the table is its weight."""
    logit_gradients: Callable[[Tensor, Batch], Float[Tensor, "batch seq vocab"]]
    """The gradient of each example's output in its logits, given those states."""

    def parts(self) -> Iterator["TableFactors"]:
        """The factors of a few examples at a time, few enough for their gradients to be formed."""
        batch = self.batch
        count = examples_formed(self.layer.d_in * self.layer.d_out, batch.inputs)
        for start in range(0, len(batch.inputs), count):
            part = slice(start, start + count)
            yield TableFactors(
                self.layer,
                Batch(batch.inputs[part], batch.labels[part]),
                None if self.read is None else self.read[part],
                None if self.states is None else self.states[part],
                self.logit_gradients,
            )

    def gradients(self) -> Float[Tensor, "batch d_out d_in"]:
        """Each example's gradient."""
        if self.states is None:
            assert self.read is not None
            entries = self.read.new_zeros(len(self.read), self.layer.d_out, self.layer.d_in)
        else:
            grads = self.logit_gradients(self.states, self.batch)
            states = self.states.to(grads.dtype)
            if self.layer.bias_name is not None:
                states = torch.cat([states, states.new_ones(*states.shape[:2], 1)], 2)
            entries = at_least_float(grads.mT @ states)
        if self.read is not None:
            read = self.read.to(entries.dtype)
            at = self.batch.inputs[:, :, None].expand_as(read)
            entries[:, :, : read.shape[2]].scatter_add_(1, at, read)
        return entries


def factors_of(
    model: PreTrainedModel,
    layers: Sequence[Layer],
    batch: Batch,
    output: Output,
    precision: Precision = "float32",
) -> dict[str, Factors]:
    """The factors of each example's output gradient, by layer name.

    One forward and one backward pass in which no weight gradient is computed. The model is left
    as it was.
    """
    device = batch.inputs.device
    with _frozen(model), recorded(layers) as uses, autocast(device, precision):
        states = hidden_states(model, batch)
        values = outputs_of_states(model, states, batch.labels, output)
        mean_outputs(values, batch.labels).sum().backward()
    present = present_positions(batch)

    def in_logits(some_states: Tensor, some: Batch) -> Float[Tensor, "batch seq vocab"]:
        with autocast(some_states.device, precision):
            return logit_gradients(model, some_states, some.labels, output)

    factors: dict[str, Factors] = {}
    for layer in layers:
        used = uses[layer.name]
        if layer.is_table:
            read = at_least_float(used[0][1]) if used else None
            head_states = states.detach() if layer.is_head else None
            factors[layer.name] = TableFactors(layer, batch, read, head_states, in_logits)
        else:
            factors[layer.name] = layer_factors(layer, used, present)
    return factors


@contextlib.contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Gradients flow from the embedding's output and to no parameter."""
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, result: result.requires_grad_())
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        handle.remove()
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
