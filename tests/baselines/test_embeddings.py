"""Embeddings of candidates against one candidate at a time."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from dsdm.baselines import embeddings, pool_batches
from dsdm.baselines.embeddings import candidate_embeddings
from dsdm.data.batches import Row
from dsdm.errors import ModelError, NumericalError
from tests.baselines.small_inputs import as_texts, inputs_of, read_numbers
from tests.conftest import ListRows, random_rows, tiny_model

OWNERS = [0, 1, 1, 1, 2, 3, 3, 4]
METHOD = "semdedup"


def literal_embeddings(model, rows, owners):
    vectors = []
    for candidate in range(max(owners) + 1):
        states = []
        for row, owner in zip(rows.rows, owners, strict=True):
            if owner == candidate:
                inputs = torch.as_tensor(row.tokens[: max(len(row.tokens) - 1, 1)])[None]
                with torch.no_grad():
                    found = model(input_ids=inputs, output_hidden_states=True).hidden_states[-1]
                states += list(found[0].numpy())
        mean = np.mean(states, axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_the_proxy_s_is_the_mean_state_of_a_candidate_s_tokens(model, monkeypatch, batch_tokens):
    monkeypatch.setattr(pool_batches, "BATCH_TOKENS", batch_tokens)
    rows = random_rows(len(OWNERS))
    seen: list[int] = []
    inputs = inputs_of(
        rows=rows, candidate_of_row=OWNERS, models=[model, tiny_model(seed=9)], advance=seen.append
    )
    found = candidate_embeddings(inputs, "proxy", METHOD)
    np.testing.assert_allclose(found, literal_embeddings(model, rows, OWNERS), atol=1e-6)
    assert (found.dtype, sum(seen)) == (np.float32, 5)


def test_a_candidate_of_one_token_is_embedded():
    model, rows = tiny_model(), ListRows([*random_rows(3).rows, Row(np.array([3]))])
    found = candidate_embeddings(inputs_of(rows=rows, models=[model]), "proxy", METHOD)
    np.testing.assert_allclose(found, literal_embeddings(model, rows, range(4)), atol=1e-6)


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_a_sentence_model_s_are_put_to_unit_length(monkeypatch, block):
    made = read_numbers(monkeypatch)
    monkeypatch.setattr(embeddings, "TEXTS", block)
    vectors = np.random.default_rng(0).normal(size=(9, 3))
    seen: list[int] = []
    found = candidate_embeddings(
        inputs_of(as_texts(vectors), advance=seen.append), "numbers", METHOD
    )
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found.dtype, sum(seen)) == (np.float32, 9)
    assert len(made) == 1
    assert made[0]["trust_remote_code"] is False
    assert made[0]["model_kwargs"] == {"use_safetensors": True}


def test_a_folder_is_read_without_the_network(monkeypatch, tmp_path):
    made = read_numbers(monkeypatch)
    for name in (str(tmp_path), "someone/model"):
        candidate_embeddings(inputs_of(["1 2"]), name, METHOD)
    assert [arguments["local_files_only"] for arguments in made] == [True, False]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="package `sentence-transformers`"):
        candidate_embeddings(inputs_of(["a"]), "someone/model", METHOD)


def test_a_text_without_direction_is_an_error(monkeypatch):
    read_numbers(monkeypatch)
    for bad in ("0 0", "nan 1", "inf 1"):
        with pytest.raises(NumericalError, match=r"1 of 3 candidates .* candidate 1"):
            candidate_embeddings(inputs_of(["1 2", bad, "3 4"]), "numbers", METHOD)


def test_a_real_sentence_model_is_read_from_a_folder(tmp_path):
    pytest.importorskip("sentence_transformers")
    save_encoder(tmp_path)
    place = str(tmp_path)
    found = candidate_embeddings(inputs_of(["red sun", "blue moon", "red sun moon"]), place, METHOD)
    alone = candidate_embeddings(inputs_of(["red sun"]), place, METHOD)
    np.testing.assert_allclose(found[0], alone[0], atol=1e-6)
    assert found[0] @ found[1] < found[0] @ found[2] < 0.999
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="can't be loaded"):
        candidate_embeddings(inputs_of(["red sun"]), place, METHOD)


def save_encoder(folder: Path) -> None:
    """A tiny BERT with random weights."""
    names = dict.fromkeys(("hidden_size", "intermediate_size", "max_position_embeddings"), 16)
    config = BertConfig(vocab_size=6, num_hidden_layers=1, num_attention_heads=2, **names)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "red", "blue", "sun", "moon"]
    tokenizer = Tokenizer(WordLevel(dict(zip(words, range(6), strict=True)), "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
