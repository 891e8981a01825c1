"""What a model says of a sequence: one number per token, averaged to one number per example.

The output f(x) of a sequence x is a mean over its counted tokens of

- `margin`: log p - log(1 - p), the multi-class margin of DsDm and TRAK, with p clamped at
  MAX_PROBABILITY so that a token the model is sure of can't dominate, or
- `loglik`: log p, the negative of the loss.

Higher is better for both, so a product of a target's and a candidate's gradient is a utility.

Logits are the largest tensor of a small model with a real vocabulary. Here they live for
CHUNK_TOKENS tokens at a time, in the forward and in the backward pass. What is made of them, in
fp32, lives for fewer still on the CPU, so that it never leaves the cache.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsdm.data.batches import IGNORED, Batch, with_context
from dsdm.lm.config import Output
from dsdm.precision import at_least_float

MAX_PROBABILITY = 1 - 1e-3
CHUNK_TOKENS = 512
CACHED_LOGITS = 1 << 19
"""Logits that the CPU works on at a time: 2 MiB in fp32. Products with the output layer are made
for more tokens than that, because each one arranges its weights anew."""


def example_outputs(
    model: PreTrainedModel, batch: Batch, output: Output = "loglik"
) -> Float[Tensor, " batch"]:
    """The output of each example, differentiable in every parameter.

    An example with no counted token has output 0.
    """
    return mean_outputs(token_outputs(model, batch, output), batch.labels)


def mean_outputs(
    values: Float[Tensor, "batch seq"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """The mean over each example's counted tokens."""
    counted = labels != IGNORED
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)


def weighted_outputs(
    model: PreTrainedModel, batch: Batch, output: Output, context_share: float
) -> Float[Tensor, " batch"]:
    """The output of each example, its context as a whole counting for `context_share` of it.

    That is the mean over the answer's tokens and the mean over the context's, with weights of
    1 - context_share and context_share; with 0, and where there is no context, `example_outputs`.
    """
    if context_share == 0:
        return example_outputs(model, batch, output)
    whole = with_context(batch)
    values = token_outputs(model, whole, output)
    in_context = whole.labels.masked_fill(batch.labels != IGNORED, IGNORED)
    answer, context = (mean_outputs(values, labels) for labels in (batch.labels, in_context))
    shares = context_share * (in_context != IGNORED).any(1).to(values.dtype)
    return (1 - shares) * answer + shares * context


def token_outputs(
    model: PreTrainedModel, batch: Batch, output: Output
) -> Float[Tensor, "batch seq"]:
    """The output of each token, 0 where the label is ignored."""
    return outputs_of_states(model, hidden_states(model, batch), batch.labels, output)


def outputs_of_states(
    model: PreTrainedModel,
    states: Float[Tensor, "batch seq width"],
    labels: Int[Tensor, "batch seq"],
    output: Output,
) -> Float[Tensor, "batch seq"]:
    """`token_outputs` given the states that the output layer reads."""
    head = model.get_output_embeddings()
    values: Tensor = _ChunkedOutputs.apply(  # type: ignore[no-untyped-call]
        states.flatten(0, 1), head.weight, head.bias, labels.flatten(), output
    )
    return values.view(labels.shape)


@torch.no_grad()
def logit_gradients(
    model: PreTrainedModel,
    states: Float[Tensor, "batch seq width"],
    labels: Int[Tensor, "batch seq"],
    output: Output,
) -> Float[Tensor, "batch seq vocab"]:
    """The gradient of each example's output in its logits, all of them at once."""
    head = model.get_output_embeddings()
    counted = (labels != IGNORED).to(head.weight.dtype)
    shares = counted / counted.sum(1, keepdim=True).clamp(min=1)
    logits = nn.functional.linear(states.flatten(0, 1), head.weight, head.bias)
    grads = _grad_logits(logits, labels.flatten(), shares.flatten(), output)
    return grads.view(*labels.shape, -1)


def summed_loglik(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """The sum of `token_outputs` for `loglik`, cheaper to differentiate in every parameter.

    A sum weighs all tokens alike, so their gradients are taken while their logits are at hand.
    """
    hidden, labels = _counted_states(model, batch)
    head = model.get_output_embeddings()
    total: Tensor = _SummedLoglik.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, labels
    )
    return total


def differentiable_loglik(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """`summed_loglik` with a second derivative, which holds every counted token's logits."""
    hidden, labels = _counted_states(model, batch)
    head = model.get_output_embeddings()
    # Cut while it is narrow: the gradient of a cut is a whole tensor of zeros.
    logliks = [
        -nn.functional.cross_entropy(
            at_least_float(nn.functional.linear(hidden[part], head.weight, head.bias)),
            labels[part],
            reduction="sum",
        )
        for part in _chunks(len(labels))
    ]
    return torch.stack(logliks).sum() if logliks else at_least_float(hidden.sum())


def plain_token_outputs(
    model: PreTrainedModel, batch: Batch, output: Output
) -> Float[Tensor, "batch seq"]:
    """`token_outputs` through the model's own logits: slower, for any head and any transform."""
    logits = model(input_ids=batch.inputs, use_cache=False).logits
    values = outputs_of_logits(logits.flatten(0, 1), batch.labels.flatten(), output)
    return values.view(batch.labels.shape)


def hidden_states(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch seq width"]:
    """The states that the output layer reads."""
    states: Tensor = model.base_model(input_ids=batch.inputs, use_cache=False).last_hidden_state
    return states


def _counted_states(
    model: PreTrainedModel, batch: Batch
) -> tuple[Float[Tensor, "tokens width"], Int[Tensor, " tokens"]]:
    """The states at tokens that count, and their labels: no others need logits."""
    labels = batch.labels.flatten()
    counted = (labels != IGNORED).nonzero()[:, 0]
    states = hidden_states(model, batch).flatten(0, 1)
    return states.index_select(0, counted), labels[counted]


@torch.no_grad()
def sampled_labels(model: PreTrainedModel, batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with each counted label drawn from the model's own prediction."""
    hidden = hidden_states(model, batch).flatten(0, 1)
    head = model.get_output_embeddings()
    drawn = []
    for part in _chunks(len(hidden)):
        logits = at_least_float(nn.functional.linear(hidden[part], head.weight, head.bias))
        drawn.append(torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0])
    labels = torch.cat(drawn).view(batch.labels.shape)
    return Batch(batch.inputs, labels.where(batch.labels != IGNORED, IGNORED))


def outputs_of_logits(
    logits: Float[Tensor, "tokens vocab"], labels: Int[Tensor, " tokens"], output: Output
) -> Float[Tensor, " tokens"]:
    """The output of each token given its logits, in fp32 at least."""
    logliks = [
        -nn.functional.cross_entropy(
            at_least_float(logits[part]), labels[part], ignore_index=IGNORED, reduction="none"
        )
        for part in _cached_parts(logits)
    ]
    loglik = torch.cat(logliks)
    values = loglik if output == "loglik" else _margin(loglik)
    return values.where(labels != IGNORED, 0.0)


def _margin(loglik: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    clamped = loglik.clamp(max=math.log(MAX_PROBABILITY))
    # 1 - p through expm1: near p = 1 the subtraction would lose fp32's digits.
    return clamped - torch.log(-torch.expm1(clamped))


class _ChunkedOutputs(torch.autograd.Function):
    """Token outputs from hidden states and the head, recomputing logits in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        output: Output,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.output = output
        ctx.autocast = torch.is_autocast_enabled(hidden.device.type)
        chunks = [
            outputs_of_logits(
                nn.functional.linear(hidden[part], weight, bias), labels[part], output
            )
            for part in _chunks(len(labels))
        ]
        return torch.cat(chunks)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=ctx.autocast):
            for part in _chunks(len(labels)):
                logits = nn.functional.linear(hidden[part], weight, bias)
                grad_logits = _grad_logits(logits, labels[part], grad_values[part], ctx.output)
                if grad_hidden is not None:
                    grad_hidden[part] = grad_logits @ weight
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ hidden[part]
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None


class _SummedLoglik(torch.autograd.Function):
    """The summed log-likelihood; logits are computed once, for value and gradients alike."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        needed = ctx.needs_input_grad[:3]
        grad_hidden, grad_weight, grad_bias = (
            torch.zeros_like(tensor) if tensor is not None and need else None
            for tensor, need in zip((hidden, weight, bias), needed, strict=True)
        )
        total = at_least_float(hidden.new_zeros(()))
        for part in _chunks(len(labels)):
            logits = nn.functional.linear(hidden[part], weight, bias)
            loglik, grad = _loglik_and_grad(logits, labels[part])
            total += loglik.sum()
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_total for grad in ctx.saved_tensors)
        return *grads, None


def _loglik_and_grad(
    logits: Float[Tensor, "tokens vocab"], labels: Int[Tensor, " tokens"]
) -> tuple[Float[Tensor, "tokens 1"], Float[Tensor, "tokens vocab"]]:
    """Each token's log p, and its gradient 1[y] - p in the logits, which are overwritten."""
    logliks = []
    for part in _cached_parts(logits):
        log_p = torch.log_softmax(at_least_float(logits[part]), 1)
        index = labels[part][:, None]
        logliks.append(log_p.gather(1, index))
        ones = torch.ones_like(index, dtype=log_p.dtype)
        logits[part] = log_p.exp_().neg_().scatter_add_(1, index, ones)
    return torch.cat(logliks), logits


def _grad_logits(
    logits: Float[Tensor, "tokens vocab"],
    labels: Int[Tensor, " tokens"],
    grad_values: Float[Tensor, " tokens"],
    output: Output,
) -> Float[Tensor, "tokens vocab"]:
    """The gradient of the weighted outputs in the logits, which are overwritten.

    It is 1[y] - p for log p; for the margin that over 1 - p_y, and 0 where the margin is clamped.
    """
    for part in _cached_parts(logits):
        logits[part] = _grad_part(logits[part], labels[part], grad_values[part], output)
    return logits


def _grad_part(
    logits: Float[Tensor, "tokens vocab"],
    labels: Int[Tensor, " tokens"],
    grad_values: Float[Tensor, " tokens"],
    output: Output,
) -> Float[Tensor, "tokens vocab"]:
    probabilities = torch.softmax(at_least_float(logits), 1)
    index = labels.clamp(min=0)[:, None]
    label_probability = probabilities.gather(1, index).squeeze(1)
    weights = grad_values.where(labels != IGNORED, 0.0)
    if output == "margin":
        clamped = label_probability >= MAX_PROBABILITY
        weights = weights.where(~clamped, 0.0) / (1 - label_probability).where(~clamped, 1.0)
    grad = probabilities.mul_(-weights[:, None])
    return grad.scatter_add_(1, index, weights[:, None].to(grad.dtype))


def _chunks(num_tokens: int) -> Iterator[slice]:
    for start in range(0, num_tokens, CHUNK_TOKENS):
        yield slice(start, start + CHUNK_TOKENS)


def _cached_parts(logits: Float[Tensor, "tokens vocab"]) -> Iterator[slice]:
    """Parts of the tokens: all at once on a GPU, which works best on much."""
    num_tokens, vocab = logits.shape
    count = max(1, CACHED_LOGITS // vocab) if logits.device.type == "cpu" else num_tokens
    for start in range(0, num_tokens, max(1, count)):
        yield slice(start, start + count)
