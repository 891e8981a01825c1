import math

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedModel

from dsdm.data.batches import Row
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import ModelError
from dsdm.evaluation.pool_slice import (
    bits_per_byte,
    held_out_candidates,
    predicted_bytes,
    token_bytes,
)
from tests.conftest import ListRows, random_rows
from tests.data.pools import texts, tiny_tokenizer


def rows_of(tokenizer: Tokenizer, *written: str) -> ListRows:
    return ListRows([Row(tokens) for tokens in tokenizer.encode_batch(written)])


def sentencepiece_like() -> Tokenizer:
    """Unknown characters become tokens of one byte each, as in Llama's tokenizer."""
    bytes_as_tokens = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words = [("▁the", -1.0), ("▁", -2.0), ("cat", -3.0), ("ö", -4.0)]
    backend = tokenizers.Tokenizer(
        models.Unigram([("<unk>", 0.0), *bytes_as_tokens, *words], 0, byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, backend.token_to_id("</s>"), backend.get_vocab_size())


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_bits_per_byte_is_the_whole_loss_over_all_bytes(
    model: PreTrainedModel, batch_tokens: int
) -> None:
    rows = random_rows(12)
    num_bytes = np.random.default_rng(1).integers(1, 30, 12)
    bits = 0.0
    for row in rows.rows:
        tokens = torch.from_numpy(row.tokens.astype(np.int64))
        with torch.no_grad():
            probabilities = model(input_ids=tokens[None]).logits[0].softmax(1)
        for position in range(1, len(tokens)):
            bits -= math.log2(probabilities[position - 1, tokens[position]])
    found = bits_per_byte(model, rows, num_bytes, batch_tokens=batch_tokens, precision="float32")
    assert found == pytest.approx(bits / num_bytes.sum(), rel=1e-9)


def test_a_row_of_one_token_adds_nothing(model: PreTrainedModel) -> None:
    rows = random_rows(3)
    num_bytes = np.array([5, 6, 7])
    alone = bits_per_byte(model, rows, num_bytes, batch_tokens=64, precision="float32")
    longer = ListRows([*rows.rows, Row(np.array([3]))])
    counts = np.array([5, 6, 7, 0])
    found = bits_per_byte(model, longer, counts, batch_tokens=64, precision="float32")
    assert found == pytest.approx(alone, rel=1e-12)


def test_each_row_needs_its_bytes_and_one_must_have_some(model: PreTrainedModel) -> None:
    for counts in ([4, 5], [0, 0, 0]):
        with pytest.raises(ValueError, match="for 3 rows"):
            bits_per_byte(model, random_rows(3), np.array(counts), batch_tokens=64)


@given(st.text(min_size=1))
def test_the_tokens_of_a_text_have_its_bytes(text: str) -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.encode_batch([text])[0]
    assert token_bytes(tokenizer)[tokens].sum() == len(text.encode())


def test_the_first_token_of_a_row_is_left_out() -> None:
    tokenizer = tiny_tokenizer()
    written = texts(5)
    rows = rows_of(tokenizer, *written)
    expected = [
        len(text.encode()) - len(tokenizer.decode(row.tokens[:1]).encode())
        for text, row in zip(written, rows.rows, strict=True)
    ]
    assert predicted_bytes(rows, tokenizer).tolist() == expected


def test_a_character_cut_between_rows_is_split_as_its_bytes_are() -> None:
    tokenizer = tiny_tokenizer()
    (tokens,) = tokenizer.encode_batch(["a\N{SNOWMAN}b"])
    assert len(tokens) == 5
    rows = ListRows([Row(tokens[:3]), Row(tokens[3:])])
    assert predicted_bytes(rows, tokenizer).tolist() == [2, 1]


def test_special_tokens_have_no_bytes_and_other_added_ones_do() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend.add_tokens(["né"])
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.eos, tokenizer.vocab_size + 1)
    sizes = token_bytes(tokenizer)
    assert sizes[tokenizer.eos] == 0
    assert sizes[tokenizer.backend.token_to_id("né")] == 3


def test_sentencepiece_tokens_have_the_bytes_that_they_spell() -> None:
    tokenizer = sentencepiece_like()
    rows = rows_of(tokenizer, "the cat ö 天")
    tokens = [tokenizer.backend.id_to_token(int(token)) for token in rows.rows[0].tokens]
    assert tokens == ["▁the", "▁", "cat", "▁", "ö", "▁", "<0xE5>", "<0xA4>", "<0xA9>"]
    assert predicted_bytes(rows, tokenizer).tolist() == [len(" cat ö 天".encode())]
    assert token_bytes(tokenizer)[tokenizer.eos] == 0


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece()])
def test_tokens_that_do_not_tell_their_bytes_are_refused(decoder: decoders.Decoder | None) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(ModelError, match="the bytes of its tokens cannot be told"):
        token_bytes(Tokenizer(backend, 1, 2))


def test_held_out_candidates_are_some_that_have_rows() -> None:
    candidate_of_row = np.array([0, 0, 2, 3, 3, 3, 5, 8, 9])
    found = held_out_candidates(candidate_of_row, 12, count=3, seed=0)
    assert found.tolist() == sorted(set(found.tolist()) & set(candidate_of_row.tolist()))
    assert len(found) == 3
    everything = held_out_candidates(candidate_of_row, 12, count=100, seed=0)
    assert everything.tolist() == [0, 2, 3, 5, 8, 9]
    assert held_out_candidates(candidate_of_row, 12, count=0, seed=0).tolist() == []


def test_held_out_candidates_depend_on_the_seed_and_grow_with_the_count() -> None:
    candidate_of_row = np.arange(1000)
    few = held_out_candidates(candidate_of_row, 1000, count=20, seed=1)
    assert np.array_equal(few, held_out_candidates(candidate_of_row, 1000, count=20, seed=1))
    assert not np.array_equal(few, held_out_candidates(candidate_of_row, 1000, count=20, seed=2))
    assert np.isin(few, held_out_candidates(candidate_of_row, 1000, count=50, seed=1)).all()
