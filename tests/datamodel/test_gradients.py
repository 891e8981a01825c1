"""Gradients from factors against one backward pass for each example."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from dsdm.data.batches import Row, collate
from dsdm.datamodel.gradients import mean_gradient
from dsdm.datamodel.scoring import layers_named
from dsdm.errors import ModelError, NumericalError
from dsdm.learners import factors as factors_module
from dsdm.learners.lm_factors import factors_of
from dsdm.learners.lm_layers import linear_layers, moved_layers, tables
from dsdm.lm.config import Output
from tests.conftest import (
    VOCAB,
    ListRows,
    learner_of,
    random_rows,
    tiny_model,
    with_unused_layer,
)
from tests.oracles import assert_same, layer_gradients, loop_gradient

OUTPUTS: tuple[Output, ...] = ("loglik", "margin")


def assert_factors_are_gradients(
    model: PreTrainedModel, rows: list[Row], output: Output = "margin"
) -> None:
    layers = moved_layers(model, embeddings=True)
    factors = factors_of(model, layers, collate(rows), output)
    assert list(factors) == [layer.name for layer in layers]
    all_expected = layer_gradients(model, layers, rows, output)
    for layer in layers:
        found = factors[layer.name]
        ours = torch.cat([part.gradients() for part in found.parts()])
        assert ours.shape == (len(rows), layer.d_out, layer.d_in)
        expected = all_expected[layer.name]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12, msg=layer.name)
        # No test of zeros against zeros.
        assert expected.flatten(1).norm(dim=1).min() > 1e-6


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("answer_start", [1, 3])
def test_factors_of_padded_rows_give_each_examples_gradient(
    model: PreTrainedModel, output: Output, answer_start: int
) -> None:
    rows = [row for row in random_rows(8, answer_start=answer_start).rows if len(row.tokens) > 3]
    assert len({len(row.tokens) for row in rows}) > 1
    assert_factors_are_gradients(model, rows, output)


def test_padding_is_marked_as_not_present() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    rows = [Row(np.arange(n), answer_start=2) for n in (4, 7)]
    factors = factors_of(model, linear_layers(model), collate(rows), "margin")
    once, twice = (
        factors[f"model.layers.0.{m}.weight"] for m in ("self_attn.q_proj", "mlp.up_proj")
    )
    expected = [[True] * 3 + [False] * 3, [True] * 6]
    assert once.present.tolist() == expected
    assert twice.present.tolist() == [row * 2 for row in expected]
    for found in (once, twice):
        assert not found.output_grads[~found.present].any()


def test_one_example_of_two_tokens_is_enough(model: PreTrainedModel) -> None:
    assert_factors_are_gradients(model, random_rows(1, longest=3).rows)


def test_a_module_that_is_called_twice_has_the_gradient_of_both_calls() -> None:
    for name in ("gpt2", "llama"):
        model = tiny_model(name)
        blocks = model.transformer.h if name == "gpt2" else model.model.layers
        num_layers = len(linear_layers(model))
        blocks[1].mlp = blocks[0].mlp
        assert len(linear_layers(model)) < num_layers
        assert_factors_are_gradients(model, random_rows(4).rows)


def test_a_block_that_is_called_twice_has_the_gradient_of_both_calls() -> None:
    model = tiny_model("gpt2")
    model.transformer.h[1].mlp = model.transformer.h[0].mlp
    model.transformer.h[1].attn.c_proj = model.transformer.h[0].attn.c_proj
    assert_factors_are_gradients(model, random_rows(4).rows)


def test_two_modules_that_share_a_weight_are_one_layer() -> None:
    model = tiny_model("llama")
    one, two = (block.mlp for block in model.model.layers)
    two.up_proj.weight = one.up_proj.weight
    shared = [la for la in linear_layers(model) if len(la.modules) > 1]
    assert [layer.name for layer in shared] == ["model.layers.0.mlp.up_proj.weight"]
    assert_factors_are_gradients(model, random_rows(4).rows)


def test_two_modules_that_share_weight_and_bias_are_one_layer() -> None:
    model = tiny_model("gpt2")
    one, two = (block.mlp.c_fc for block in model.transformer.h)
    two.weight, two.bias = one.weight, one.bias
    assert_factors_are_gradients(model, random_rows(4).rows)


def test_a_weight_shared_with_another_bias_is_refused() -> None:
    model = tiny_model("gpt2")
    one, two = (block.mlp.c_fc for block in model.transformer.h)
    two.weight = one.weight
    with pytest.raises(ModelError, match=r"h\.0\.mlp\.c_fc\.weight` is shared by layers"):
        linear_layers(model)


def test_layers_are_those_of_the_body(model: PreTrainedModel) -> None:
    names = [name for layer in linear_layers(model) for name in layer.parameter_names]
    assert len(set(names)) == len(names)
    named = dict(model.named_parameters())
    left_out = {n for n in named if n not in names}
    words = ("wte", "wpe", "ln_", "norm", "embed", "lm_head")
    assert all(any(word in name for word in words) for name in left_out)
    assert any(named[name].ndim == 2 for name in names)


def test_tied_embeddings_are_one_table_and_untied_ones_two() -> None:
    found = {name: tables(tiny_model(name)) for name in ("gpt2", "gpt2-untied", "phi")}
    assert [t.name for t in found["gpt2"]] == ["transformer.wte.weight"]
    assert [t.name for t in found["gpt2-untied"]] == ["transformer.wte.weight", "lm_head.weight"]
    assert [t.bias_name for t in found["phi"]] == [None, "lm_head.bias"]
    assert [t.d_in for t in found["phi"]] == [8, 9]


def test_layers_are_found_by_the_parameters_that_a_direction_moves() -> None:
    model = tiny_model("gpt2-untied")
    wanted = [linear_layers(model)[2], tables(model)[1]]
    names = [name for layer in wanted for name in layer.parameter_names]
    tensors = dict.fromkeys(names, torch.zeros(1))
    assert layers_named(learner_of(model), tensors) == wanted
    with pytest.raises(ValueError, match="neither in a layer nor in a table"):
        layers_named(learner_of(model), tensors | {"transformer.ln_f.weight": torch.zeros(1)})


@pytest.mark.parametrize("formed", [1, 23 * 8, 23 * 8 * 3])
def test_tables_form_a_few_gradients_at_a_time(
    monkeypatch: pytest.MonkeyPatch, formed: int
) -> None:
    monkeypatch.setattr(factors_module, "FORMED_ON_CPU", formed)
    model, rows = tiny_model(), random_rows(7).rows
    (table,) = tables(model)
    found = factors_of(model, [table], collate(rows), "margin")[table.name]
    assert {len(part.gradients()) for part in found.parts()} <= {1, max(1, formed // (23 * 8))}
    assert_factors_are_gradients(model, rows)


def test_matrices_and_tensors_convert_without_loss(model: PreTrainedModel) -> None:
    named = {n: p.detach() for n, p in model.named_parameters()}
    for layer in moved_layers(model, embeddings=True):
        matrix = layer.to_matrix(named)
        assert matrix.shape == (layer.d_out, layer.d_in)
        assert_same(layer.from_matrix(matrix), {n: named[n] for n in layer.parameter_names})


def test_a_model_without_linear_layers_is_refused() -> None:
    model = tiny_model("gpt2")
    model.transformer.h = nn.ModuleList()
    with pytest.raises(ModelError, match="no linear layer"):
        linear_layers(model)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("batch_tokens", [1, 24, 1000])
def test_the_mean_gradient_is_that_of_a_loop(
    model: PreTrainedModel, output: Output, batch_tokens: int
) -> None:
    rows = random_rows(7, answer_start=2)
    names = [name for name, _ in model.named_parameters()]
    ours = mean_gradient(learner_of(model, output, batch_tokens=batch_tokens), rows, names)
    assert_same(ours, loop_gradient(model, rows.rows, output))


def test_each_example_weighs_the_same_however_many_tokens_it_counts() -> None:
    model = tiny_model()
    rows = random_rows(2)
    rows.rows[0] = Row(rows.rows[0].tokens[:2])
    rows.rows[1] = Row(torch.arange(9).numpy() % VOCAB)
    name = linear_layers(model)[0].name
    whole = mean_gradient(learner_of(model, "loglik"), rows, [name])[name]
    short, long = (loop_gradient(model, [row], "loglik", [name])[name] for row in rows.rows)
    torch.testing.assert_close(whole, (short + long) / 2, rtol=1e-9, atol=1e-12)


def test_a_gradient_that_is_not_finite_is_refused_by_name() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wte.weight[5] = float("inf")
    layer = linear_layers(model)[0]
    with pytest.raises(NumericalError, match=r"gradient of `transformer\.h\.0"):
        mean_gradient(learner_of(model, "loglik"), random_rows(9), [layer.name])


def test_factors_leave_the_model_as_it_was(model: PreTrainedModel) -> None:
    named = dict(model.named_parameters())
    next(iter(named.values())).requires_grad_(False)
    before = {n: p.requires_grad for n, p in named.items()}
    factors_of(model, linear_layers(model), collate(random_rows(2).rows), "margin")
    assert {n: p.requires_grad for n, p in named.items()} == before
    assert all(p.grad is None for p in named.values())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_the_model_is_as_it_was_after_an_error_too() -> None:
    model = tiny_model()
    batch = collate([Row(torch.arange(20).numpy())])  # longer than the model's positions
    with pytest.raises((IndexError, RuntimeError)):
        factors_of(model, linear_layers(model), batch, "margin")
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_factors_in_bfloat16_are_near_those_in_float32() -> None:
    model = tiny_model("gpt2", scale=1.0).float()
    layers, batch = moved_layers(model, embeddings=True), collate(random_rows(6).rows)
    exact = factors_of(model, layers, batch, "margin")
    rounded = factors_of(model, layers, batch, "margin", "bfloat16")
    for name, one in exact.items():
        pair = [f.gradients().flatten() for f in (one, rounded[name])]
        assert pair[1].dtype == torch.float32
        assert torch.cosine_similarity(*pair, dim=0) > 0.99


def test_a_context_has_its_share_of_the_gradient() -> None:
    """With 3 tokens of answer and 5 of context, f = (1 - s) f_answer + s f_context."""
    model, share = tiny_model(), 0.3
    row = Row(torch.arange(9).numpy() % VOCAB, answer_start=6)
    name = linear_layers(model)[0].name
    learner = learner_of(model, "loglik", context_share=share)
    ours = mean_gradient(learner, ListRows([row]), [name])[name]
    answer, whole = (
        loop_gradient(model, [Row(row.tokens, start)], "loglik", [name])[name] for start in (6, 1)
    )
    context = (8 * whole - 3 * answer) / 5
    expected = (1 - share) * answer + share * context
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_layer_that_is_never_used_has_gradients_of_zero() -> None:
    model = with_unused_layer(tiny_model())
    layers = moved_layers(model, embeddings=True)
    found = factors_of(model, layers, collate(random_rows(3).rows), "margin")
    unused = next(layer for layer in layers if "unused" in layer.name)
    for part in found[unused.name].parts():
        assert part.gradients().shape[1:] == (8, 9)
        assert not part.gradients().any()
    mean = mean_gradient(learner_of(model), random_rows(3), [unused.name])
    assert not mean[unused.name].any()
