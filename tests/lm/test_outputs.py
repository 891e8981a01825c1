"""Chunked outputs against the model's own logits."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsdm.data.batches import IGNORED, Batch, Row, collate
from dsdm.lm import outputs
from dsdm.lm.config import Output
from dsdm.lm.outputs import (
    differentiable_loglik,
    example_outputs,
    outputs_of_logits,
    plain_token_outputs,
    sampled_labels,
    summed_loglik,
    token_outputs,
    weighted_outputs,
)
from dsdm.precision import autocast
from tests.conftest import VOCAB, random_rows, tiny_model
from tests.oracles import assert_same, plain_output

OUTPUTS: tuple[Output, ...] = ("loglik", "margin")
CPU = torch.device("cpu")


@pytest.fixture(params=[1, 7, 10_000])
def chunk_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(outputs, "CHUNK_TOKENS", request.param)
    return request.param


def with_head_bias(model: PreTrainedModel, bias: Tensor | None = None) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(3)
    if bias is None:
        bias = torch.randn(VOCAB, generator=generator, dtype=torch.float64)
    model.get_output_embeddings().bias = nn.Parameter(bias)
    return model


def padded_batch(answer_start: int = 1) -> Batch:
    return collate(random_rows(5, answer_start=answer_start).rows)


def gradients(model: PreTrainedModel, values: Tensor) -> dict[str, Tensor]:
    """In every parameter, of a sum in which no two tokens weigh the same."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    named = dict(model.named_parameters())
    found = torch.autograd.grad((weights * values).sum(), list(named.values()))
    return dict(zip(named, found, strict=True))


@pytest.mark.usefixtures("chunk_tokens")
@pytest.mark.parametrize("output", OUTPUTS)
def test_chunks_give_the_values_and_gradients_of_plain_logits(
    model: PreTrainedModel, output: Output
) -> None:
    batch = padded_batch(answer_start=2)
    ours, plain = (f(model, batch, output) for f in (token_outputs, plain_token_outputs))
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    assert_same(gradients(model, ours), gradients(model, plain))


@pytest.mark.usefixtures("chunk_tokens")
@pytest.mark.parametrize("name", ["gpt2", "gpt2-untied"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_bias_of_the_head_is_read_and_gets_its_gradient(name: str, output: Output) -> None:
    model, batch = with_head_bias(tiny_model(name)), padded_batch()
    ours, plain = (f(model, batch, output) for f in (token_outputs, plain_token_outputs))
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    found = gradients(model, ours)
    assert found["lm_head.bias"].abs().max() > 0
    assert_same(found, gradients(model, plain))


@pytest.mark.usefixtures("chunk_tokens")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("summed", [summed_loglik, differentiable_loglik])
def test_the_summed_loglik_has_the_value_and_gradients_of_the_sum(
    model: PreTrainedModel, with_bias: bool, summed: Callable[[PreTrainedModel, Batch], Tensor]
) -> None:
    model = with_head_bias(model) if with_bias else model
    batch = padded_batch(answer_start=2)
    ours, named = 3 * summed(model, batch), dict(model.named_parameters())
    plain = 3 * plain_token_outputs(model, batch, "loglik").sum()
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    ours_grads, plain_grads = (
        dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))
        for total in (ours, plain)
    )
    assert_same(ours_grads, plain_grads)


def test_the_summed_loglik_leaves_frozen_parameters_alone() -> None:
    model, batch = tiny_model(), padded_batch()
    model.get_output_embeddings().weight.requires_grad_(False)
    summed_loglik(model, batch).backward()
    assert model.get_output_embeddings().weight.grad is None
    with torch.no_grad():
        # Sums in another order differ in the last digits.
        total = token_outputs(model, batch, "loglik").sum()
        torch.testing.assert_close(summed_loglik(model, batch), total)


@pytest.mark.parametrize("summed", [summed_loglik, differentiable_loglik])
def test_a_batch_in_which_nothing_counts_adds_nothing(
    summed: Callable[[PreTrainedModel, Batch], Tensor],
) -> None:
    model, batch = tiny_model(), collate([Row(np.array([3]))])
    total = summed(model, batch)
    assert total == 0
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_tied_embedding_gets_the_gradient_of_both_its_uses() -> None:
    model, batch = tiny_model("gpt2"), padded_batch()
    weight = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is weight
    (whole,) = torch.autograd.grad(token_outputs(model, batch, "loglik").sum(), [weight])
    hidden = outputs.hidden_states(model, batch)
    (as_embedding,) = torch.autograd.grad(
        outputs_of_logits(
            nn.functional.linear(hidden, weight.detach()).flatten(0, 1),
            batch.labels.flatten(),
            "loglik",
        ).sum(),
        [weight],
    )
    assert not torch.allclose(whole, as_embedding)
    hidden = hidden.detach()
    logits = nn.functional.linear(hidden, weight).flatten(0, 1)
    (as_head,) = torch.autograd.grad(
        outputs_of_logits(logits, batch.labels.flatten(), "loglik").sum(), [weight]
    )
    torch.testing.assert_close(whole, as_embedding + as_head, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_example_is_the_mean_over_its_counted_tokens(
    model: PreTrainedModel, output: Output
) -> None:
    rows = random_rows(6, answer_start=2).rows
    ours = example_outputs(model, collate(rows), output)
    expected = torch.stack([plain_output(model, row, output) for row in rows])
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_context_counts_for_its_share_however_long_it_is(
    model: PreTrainedModel, output: Output, share: float
) -> None:
    rows = [row for row in random_rows(9, answer_start=3).rows if len(row.tokens) > 3]
    assert rows
    ours = weighted_outputs(model, collate(rows), output, share)
    for row, found in zip(rows, ours, strict=True):
        whole = plain_token_outputs(model, collate([Row(row.tokens)]), output)[0]
        # Prediction t is of token t + 1.
        context, answer = whole[: row.answer_start - 1], whole[row.answer_start - 1 :]
        expected = (1 - share) * answer.mean() + share * context.mean()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_an_example_without_context_is_its_answer(model: PreTrainedModel) -> None:
    batch = collate(random_rows(3).rows)
    ours = weighted_outputs(model, batch, "loglik", 0.5)
    torch.testing.assert_close(ours, example_outputs(model, batch, "loglik"))


@pytest.mark.parametrize("output", OUTPUTS)
def test_ignored_labels_count_for_nothing(output: Output) -> None:
    model, batch = tiny_model(), padded_batch(answer_start=3)
    values = token_outputs(model, batch, output)
    ignored = batch.labels == IGNORED
    assert ignored.any()
    assert (values[ignored] == 0).all()
    assert not any(g.any() for g in gradients(model, values * ignored).values())


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_example_with_no_counted_token_is_zero_and_has_no_gradient(output: Output) -> None:
    model = tiny_model()
    batch = collate([Row(torch.tensor([4]).numpy()), Row(torch.arange(5).numpy(), answer_start=5)])
    values = example_outputs(model, batch, output)
    assert values.tolist() == [0, 0]
    assert not any(g.any() for g in gradients(model, values).values())


def test_the_margin_is_the_log_odds_of_the_label() -> None:
    logits = torch.randn(7, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(7)
    p = logits.softmax(1)[torch.arange(7), labels]
    expected = p.log() - (1 - p).log()
    torch.testing.assert_close(outputs_of_logits(logits, labels, "margin"), expected)


def head_that_gives(label: int, probability: float) -> PreTrainedModel:
    """A model whose every prediction is `label` with about this probability."""
    model = tiny_model("gpt2-untied")
    bias = torch.zeros(VOCAB, dtype=torch.float64)
    bias[label] = math.log((VOCAB - 1) * probability / (1 - probability))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    return with_head_bias(model, bias)


@pytest.mark.usefixtures("chunk_tokens")
@pytest.mark.parametrize("probability", [0.9995, 1 - 1e-12, 1 - 1e-17])
def test_a_sure_token_has_the_largest_margin_and_no_gradient(probability: float) -> None:
    model = head_that_gives(3, min(probability, 1 - 1e-16))
    batch = collate([Row(torch.full((5,), 3).numpy())])
    values = token_outputs(model, batch, "margin")
    torch.testing.assert_close(values, torch.full_like(values, math.log(0.999 / 0.001)))
    assert all(not g.any() for g in gradients(model, values).values())
    if probability < 1 - 1e-15:
        loglik = token_outputs(model, batch, "loglik")
        assert gradients(model, loglik)["lm_head.bias"].any()


@pytest.mark.usefixtures("chunk_tokens")
def test_a_nearly_sure_token_keeps_its_gradient() -> None:
    model = head_that_gives(3, 0.998)
    batch = collate([Row(torch.full((5,), 3).numpy())])
    ours, plain = (f(model, batch, "margin") for f in (token_outputs, plain_token_outputs))
    found = gradients(model, ours)
    assert found["lm_head.bias"].abs().max() > 0.1
    assert_same(found, gradients(model, plain))


@pytest.mark.parametrize("output", OUTPUTS)
def test_backward_in_bfloat16_is_near_float32(output: Output) -> None:
    model = tiny_model("gpt2", scale=1.0).float()
    batch = padded_batch()
    exact = gradients(model, example_outputs(model, batch, output))
    with autocast(CPU, "bfloat16"):
        values = example_outputs(model, batch, output)
    assert values.dtype == torch.float32
    rounded = gradients(model, values)
    whole, near = (torch.cat([g.flatten() for g in gs.values()]) for gs in (exact, rounded))
    assert near.dtype == torch.float32
    assert not torch.equal(near, whole)
    assert torch.cosine_similarity(near, whole, dim=0) > 0.999
    assert 0.98 < near.norm() / whole.norm() < 1.02


def test_sampled_labels_follow_the_models_prediction() -> None:
    model = head_that_gives(3, 0.75)
    batch = collate([Row(torch.arange(3).numpy().repeat(5)) for _ in range(200)])
    labels = sampled_labels(model, batch, torch.Generator().manual_seed(0)).labels
    assert abs((labels == 3).double().mean().item() - 0.75) < 0.02
    assert labels.unique().numel() > VOCAB // 2


def test_sampled_labels_leave_ignored_positions_and_inputs_alone() -> None:
    model, batch = tiny_model(), padded_batch(answer_start=3)
    drawn = sampled_labels(model, batch, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.inputs, batch.inputs)
    assert torch.equal(drawn.labels == IGNORED, batch.labels == IGNORED)
    again = sampled_labels(model, batch, torch.Generator().manual_seed(0))
    assert torch.equal(again.labels, drawn.labels)
