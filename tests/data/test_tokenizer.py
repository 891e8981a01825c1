import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer
from dsdm.errors import ModelError
from tests.data.pools import texts, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@given(text=st.text())
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode_batch([text])
    assert ids.dtype == np.int32
    assert tokenizer.eos not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(np.append(ids, tokenizer.eos)) == text


def test_a_batch_gives_what_single_texts_give(tokenizer: Tokenizer) -> None:
    batch = texts(20)
    for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
        assert ids.tolist() == tokenizer.encode_batch([text])[0].tolist()


def test_a_special_token_written_out_in_a_text_stays_text(tokenizer: Tokenizer) -> None:
    text = "before<|endoftext|>after"
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.eos not in ids
    assert tokenizer.decode(ids) == text


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert tiny_tokenizer().backend.to_str() == tiny_tokenizer().backend.to_str()


def test_training_stops_at_the_sample_size() -> None:
    def endless():
        yield "abc " * 100
        yield "xyz " * 100
        raise AssertionError("read on")

    trained = make_tokenizer(TokenizerConfig(vocab_size=300, sample_bytes=500), endless())
    assert trained.vocab_size < 300  # two words give no more pairs to merge
    assert len(trained.encode_batch(["xyz"])[0]) == 1


def test_a_saved_folder_is_read_by_transformers_and_by_us(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in texts(5):
        expected = tokenizer.encode_batch([text])[0].tolist()
        assert theirs(text)["input_ids"] == expected
        assert ours.encode_batch([text])[0].tolist() == expected
    assert theirs.eos_token_id == ours.eos == tokenizer.eos
    assert len(theirs) == ours.vocab_size == tokenizer.vocab_size


def test_a_folder_or_its_tokenizer_json_can_be_given(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        given_one = make_tokenizer(TokenizerConfig(path=str(path)), iter([]))
        assert given_one.backend.get_vocab() == tokenizer.backend.get_vocab()
        for ours, theirs in zip(
            tokenizer.encode_batch(texts(5)), given_one.encode_batch(texts(5)), strict=True
        ):
            assert np.array_equal(ours, theirs)


def test_saving_again_writes_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "once")
    load_tokenizer(tmp_path / "once").save(tmp_path / "again")
    for file in (tmp_path / "once").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_truncation_and_padding_stored_in_the_file_are_switched_off(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    backend.save(str(tmp_path / "tokenizer.json"))
    long, short = texts(2)[0] * 3, "a"
    encoded = load_tokenizer(tmp_path).encode_batch([long, short])
    assert [len(ids) for ids in encoded] == [len(i) for i in tokenizer.encode_batch([long, short])]


def test_a_folder_of_transformers_keeps_its_end_token(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1, "hello": 2, "[UNK]": 70000}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    about = {"eos_token": {"content": "</s>"}, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    loaded = make_tokenizer(TokenizerConfig(path=str(tmp_path)), iter([]))
    assert (loaded.eos, loaded.vocab_size) == (1, 70001)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    Backend(models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="end-of-text"):
        make_tokenizer(TokenizerConfig(path=str(tmp_path / "tokenizer.json")), iter([]))


def test_no_text_to_train_on_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"no text to train .*tokenizer\.path"):
        make_tokenizer(TokenizerConfig(), iter([]))


def test_a_name_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        make_tokenizer(TokenizerConfig(path=str(tmp_path / "nowhere")), iter([]))


def test_a_damaged_folder_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_disk_that_takes_no_more_is_a_disks_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            tokenizer.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
