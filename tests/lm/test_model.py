"""Making, saving and loading models, and refusing those that can't be used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dsdm.data.batches import Batch
from dsdm.errors import ArtifactError, ModelError, NumericalError
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import (
    check_finite,
    default_device,
    flops_per_token,
    load_model,
    load_saved,
    save_model,
)
from dsdm.lm.outputs import token_outputs
from dsdm.precision import uses_bfloat16
from tests.conftest import GPT2, LLAMA, MODELS, VOCAB, tiny_model

CPU = torch.device("cpu")
GEMMA = {
    "model_type": "gemma2",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
}


def load(vocab_size: int = VOCAB, seed: int = 0, **fields: Any) -> PreTrainedModel:
    return load_model(ModelConfig(**fields), vocab_size=vocab_size, eos=0, seed=seed)


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    theirs = dict(other.named_parameters())
    named = dict(one.named_parameters())
    return set(named) == set(theirs) and all(torch.equal(p, theirs[n]) for n, p in named.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(load(config=GPT2, seed=5), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("fields", [{}, {"path": "somewhere", "config": GPT2}])
def test_both_or_neither_of_path_and_config_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="either `path` or `config`"):
        load(**fields)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"n_embd": 8}, "names no `model_type`"),
        (GPT2 | {"n_layr": 3}, "`n_layr` is not a field of GPT2Config"),
        (LLAMA | {"n_layer": 3}, "`n_layer` is not a field of LlamaConfig"),
        (GPT2 | {"n_head": 3}, "divisible"),
        (GPT2 | {"n_embd": "wide"}, "wide"),
        ({"model_type": "t5"}, "cannot be made"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(config=config)


@pytest.mark.parametrize(
    "fields", [{"rope_theta": 5e5}, {"num_hidden_layers": 1}, {"attention_bias": True}]
)
def test_fields_that_transformers_renames_or_moves_are_taken(fields: dict[str, Any]) -> None:
    load(config=LLAMA | fields)
    load(config=GPT2 | {"num_hidden_layers": 1})


def test_a_path_where_there_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(path=str(tmp_path))


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(load(config=GPT2).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be made"):
        load(path=str(folder))


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=str(folder)):
        load(path=str(folder))


def test_a_saved_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(ArtifactError, match=f"{path}: is missing or is no saved model"):
            load_saved(path)


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_a_saved_model_without_whole_weights_is_named(folder: Path, damage: str) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(content[:-100])
    with pytest.raises(ArtifactError, match=f"{folder}: is no saved model that can be loaded"):
        load_saved(folder)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=f"has {VOCAB} entries and the tokenizer {VOCAB + 1}"):
        load(path=str(folder), vocab_size=VOCAB + 1)
    with pytest.raises(ModelError, match="has 10 entries and the tokenizer 23"):
        load(config=GPT2 | {"vocab_size": 10})


def test_a_larger_vocabulary_is_taken(folder: Path) -> None:
    model = load(path=str(folder), vocab_size=VOCAB - 3)
    assert model.get_input_embeddings().weight.shape[0] == VOCAB


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    model = load(config=GPT2)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = bad
    save_model(model, tmp_path)
    with pytest.raises(NumericalError, match=r"`transformer\.h\.1\.mlp\.c_fc\.weight`"):
        load(path=str(tmp_path))
    with pytest.raises(NumericalError):
        check_finite(model)


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | {"model_type": "granite", "logits_scaling": 8.0},
        LLAMA | {"model_type": "cohere"},
        GEMMA,  # its cap changes logits as small as random weights give by less than 1e-3
    ],
    ids=["scaled", "scaled-down", "capped"],
)
def test_models_that_change_their_logits_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="scaled or capped"):
        load(config=config)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_saved_model_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = load(config=MODELS[name], seed=5)
    save_model(model, tmp_path)
    again, pretrained = load_saved(tmp_path), load(path=str(tmp_path), seed=9)
    assert same_weights(again, model)
    assert same_weights(pretrained, model)
    assert not again.training
    batch = Batch(torch.arange(5)[None], torch.arange(1, 6)[None])
    for other in (again, pretrained):
        assert torch.equal(
            token_outputs(other.eval(), batch, "margin"),
            token_outputs(model.eval(), batch, "margin"),
        )


def test_other_code_loads_what_is_saved(folder: Path) -> None:
    assert same_weights(AutoModelForCausalLM.from_pretrained(folder), load(config=GPT2, seed=5))
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".json", ".safetensors"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_stays_tied_and_an_untied_one_apart(tied: bool, tmp_path: Path) -> None:
    model = load(config=GPT2 | {"tie_word_embeddings": tied})
    save_model(model, tmp_path)
    for found in (model, load_saved(tmp_path), load(path=str(tmp_path))):
        shared = found.get_input_embeddings().weight is found.get_output_embeddings().weight
        assert shared is tied


def test_a_path_without_its_weights_starts_from_random_ones(folder: Path) -> None:
    fresh = load(path=str(folder), pretrained=False, seed=5)
    other = load(path=str(folder), pretrained=False, seed=6)
    assert fresh.config.n_layer == GPT2["n_layer"]
    assert fresh.get_input_embeddings().weight.shape == (VOCAB, GPT2["n_embd"])
    assert not same_weights(fresh, other)
    assert not same_weights(other, load(path=str(folder)))
    assert same_weights(fresh, load(path=str(folder), pretrained=False, seed=5))


def test_random_weights_depend_on_the_seed_alone() -> None:
    one = load(config=GPT2, seed=1)
    torch.rand(7)
    assert same_weights(one, load(config=GPT2, seed=1))
    assert not same_weights(one, load(config=GPT2, seed=2))


def test_looking_at_the_head_leaves_no_trace_in_the_weights() -> None:
    model = load(config=GPT2, seed=1)
    torch.manual_seed(1)
    assert same_weights(model, AutoModelForCausalLM.from_config(model.config))


def test_half_precision_weights_are_read_in_full(tmp_path: Path) -> None:
    model = load(config=GPT2).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    for found in (load(path=str(tmp_path)), load_saved(tmp_path)):
        assert {p.dtype for p in found.parameters()} == {torch.float32}
        assert same_weights(found, model.float())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_nothing_is_dropped_out_in_training(name: str) -> None:
    model = load(config=MODELS[name]).train()
    batch = Batch(torch.arange(5)[None], torch.arange(1, 6)[None])
    first = token_outputs(model, batch, "loglik")
    assert torch.equal(first, token_outputs(model, batch, "loglik"))
    assert torch.equal(first, token_outputs(model.eval(), batch, "loglik"))


def test_flops_count_the_head_once_and_the_lookup_never() -> None:
    tied, untied = tiny_model("gpt2"), tiny_model("gpt2-untied")
    assert flops_per_token(tied, 16) == flops_per_token(untied, 16)
    width, layers, positions = GPT2["n_embd"], GPT2["n_layer"], GPT2["n_positions"]
    block = 12 * width**2 + 13 * width
    rest = VOCAB * width + positions * width + 2 * width
    expected = 2 * (layers * block + rest) + 2 * layers * width * 16
    assert flops_per_token(tied, 16) == expected


def test_precision_is_as_asked() -> None:
    assert uses_bfloat16(CPU, "bfloat16")
    assert not uses_bfloat16(CPU, "float32")
    assert isinstance(uses_bfloat16(CPU, "auto"), bool)
    assert default_device("cpu") == CPU
