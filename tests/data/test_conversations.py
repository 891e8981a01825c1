"""Conversations as rows: what is read, what counts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from dsdm.data.batches import IGNORED, collate
from dsdm.data.conversations import BadRecordError, parse_conversation
from dsdm.data.documents import PoolConfig
from dsdm.data.examples import Examples, ExamplesConfig
from dsdm.data.sequences import Row
from dsdm.data.target_files import read_jsonl_examples
from dsdm.data.target_rows import encode_examples
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.errors import DataError, ModelError
from tests.data.pools import packed, write_jsonl
from tests.tiny_chat import TEMPLATE, chat, conversations, write_chat_experiment, write_chat_model
from tests.tiny_runs import Dsdm

TURNS = chat(
    ("system", "Be brief."),
    ("user", "rain?"),
    ("assistant", "the cat sat"),
    ("user", "and?"),
    ("assistant", " on a mat "),
    ("user", "thanks"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_chat_model(tmp_path_factory.mktemp("model"))


def pack_records(folder: Path, tokenizer: Tokenizer, records: list[Any], **pool: Any) -> Examples:
    path = write_jsonl(folder / "pool.jsonl", records)
    config = PoolConfig(files=[str(path)], format="conversations", max_rejected_share=1.0, **pool)
    return packed(folder / "examples", config, tokenizer, ExamplesConfig(row_tokens=128))


def shown(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return tokenizer.backend.decode([int(i) for i in ids], skip_special_tokens=False)


def test_what_the_assistant_says_counts_and_nothing_else(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    row = pack_records(tmp_path, tokenizer, [{"messages": TURNS}]).row(0)
    assert shown(tokenizer, row.tokens[row.counted]) == (
        "the cat sat<|endoftext|> on a mat <|endoftext|>"
    )
    labels = collate([row]).labels[0]
    assert (labels != IGNORED).sum() == row.counted.sum()
    assert shown(tokenizer, labels[labels != IGNORED].numpy()) == (
        "the cat sat<|endoftext|> on a mat <|endoftext|>"
    )


def test_rows_are_what_transformers_makes_of_the_chat(tmp_path: Path) -> None:
    tokenizer = write_chat_model(tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    whole = theirs.apply_chat_template(TURNS[:5], tokenize=True, return_dict=True)["input_ids"]
    row = pack_records(tmp_path, tokenizer, [{"messages": TURNS}]).row(0)
    assert row.tokens.tolist() == whole[: len(row.tokens)]
    # The rest is what the template puts behind the last turn.
    assert theirs.decode(whole[len(row.tokens) :]).strip() == ""


def test_a_tokenizer_keeps_its_template_when_it_is_saved(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(tmp_path)
    again = make_tokenizer(TokenizerConfig(path=str(tmp_path)), iter(()))
    assert again.chat_template == TEMPLATE
    assert again.special_tokens["bos_token"] == "<|start|>"
    assert again.encode_marked("<|start|>user\n")[0].tolist() == (
        tokenizer.encode_marked("<|start|>user\n")[0].tolist()
    )


def test_a_prompt_and_its_completion_are_joined_as_they_are_and_closed(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    row = pack_records(tmp_path, tokenizer, [{"prompt": "the cat", "completion": " sat"}]).row(0)
    assert shown(tokenizer, row.tokens) == "the cat sat<|endoftext|>"
    assert shown(tokenizer, row.tokens[row.counted]) == " sat<|endoftext|>"


def test_without_a_prompt_all_of_the_completion_counts(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    row = pack_records(tmp_path, tokenizer, [{"prompt": "", "completion": "sat"}]).row(0)
    assert shown(tokenizer, row.tokens[row.counted]) == "sat<|endoftext|>"


def test_prompts_and_completions_of_messages_leave_the_prompts_turns_uncounted(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    record = {"prompt": TURNS[:4], "completion": TURNS[4:5]}
    row = pack_records(tmp_path, tokenizer, [record]).row(0)
    assert shown(tokenizer, row.tokens[row.counted]) == " on a mat <|endoftext|>"


def test_columns_may_have_other_names(tmp_path: Path, tokenizer: Tokenizer) -> None:
    record = {"instruction": "the cat", "output": " sat"}
    examples = pack_records(
        tmp_path, tokenizer, [record], prompt="instruction", completion="output"
    )
    assert shown(tokenizer, examples.row(0).tokens) == "the cat sat<|endoftext|>"


def test_parquet_holds_the_same_conversations(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = conversations(10)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "pool.parquet")
    config = PoolConfig(files=[str(tmp_path / "pool.parquet")], format="conversations")
    there = packed(tmp_path / "there", config, tokenizer)
    here = pack_records(tmp_path, tokenizer, records)
    assert there.num_rows == here.num_rows == 10
    for number in range(10):
        assert there.row(number).tokens.tolist() == here.row(number).tokens.tolist()
        assert there.row(number).counted.tolist() == here.row(number).counted.tolist()


BAD = {
    "no assistant turn": {"messages": chat(("user", "rain?"))},
    "a message without role: number 1": {
        "messages": [*chat(("user", "rain?")), {"content": "yes"}]
    },
    "a message without content: number 0": {"messages": [{"role": "user"}, TURNS[2]]},
    "a message that is no object: number 0": {"messages": ["rain?"]},
    "messages is not a list of messages": {"messages": "rain?"},
    "empty assistant turn": {"messages": chat(("user", "rain?"), ("assistant", " "))},
    "null prompt": {"messages": None},
    "empty completion": {"prompt": "rain?", "completion": ""},
    "a message holds a special token: <|start|>": {
        "messages": chat(("user", "<|start|>assistant"), ("assistant", "yes"))
    },
    "longer than a row": {"messages": chat(("user", "rain? " * 40), ("assistant", "yes"))},
}


def test_unusable_conversations_are_counted_and_listed_with_their_reason(
    tmp_path: Path, dsdm: Dsdm
) -> None:
    records = [*BAD.values(), *conversations(60)]
    write_jsonl(tmp_path / "pool.jsonl", records)
    pool = {"max_rejected_share": 0.5}
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, pool=pool), "--until", "examples")
    assert code == 0, err
    shard = tmp_path / "run" / "examples" / "00000"
    lines = (shard / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = [json.loads(line) for line in lines]
    found = sorted(line["reason"] for line in rejected)
    assert len(found) == len(BAD)
    for reason, expected in zip(found, sorted(BAD), strict=True):
        assert reason.startswith(expected)
    counts = json.loads((shard / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["rejected"], counts["rows"]) == (len(BAD), 60)


def test_too_many_over_long_conversations_stop_the_run(tmp_path: Path, dsdm: Dsdm) -> None:
    examples = {"row_tokens": 8}
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, examples=examples))
    assert code == 2
    assert "60 of 60 records can't be used (60 longer than a row)" in err
    assert "Traceback" not in err


def test_a_template_that_the_tokenizer_lacks_is_one_error(tmp_path: Path, dsdm: Dsdm) -> None:
    write_chat_model(tmp_path / "model", template=None)
    code, _, err = dsdm("run", write_chat_experiment(tmp_path))
    assert code == 2
    assert "dsdm: The tokenizer has no chat template" in err
    assert "chat_template.jinja" in err


def test_a_template_that_refuses_a_chat_is_a_counted_reject(tmp_path: Path, dsdm: Dsdm) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    write_chat_model(tmp_path / "model", template=strict + TEMPLATE)
    write_jsonl(tmp_path / "pool.jsonl", [{"messages": TURNS}])
    code, _, err = dsdm("run", write_chat_experiment(tmp_path))
    assert code == 2
    assert "1 of 1 records can't be used (1 the chat template refuses it)" in err


def test_a_template_that_rewrites_turns_is_a_counted_reject(tmp_path: Path, dsdm: Dsdm) -> None:
    forgetful = "{% set messages = messages[-2:] %}" + TEMPLATE
    write_chat_model(tmp_path / "model", template=forgetful)
    write_jsonl(tmp_path / "pool.jsonl", [{"messages": TURNS}])
    code, _, err = dsdm("run", write_chat_experiment(tmp_path))
    assert code == 2
    assert "1 the chat template rewrites turns" in err


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.parquet"])
def test_a_file_without_conversations_says_which_columns_it_needs(
    tmp_path: Path, dsdm: Dsdm, name: str
) -> None:
    records = [{"text": "the cat"}]
    if name.endswith("jsonl"):
        write_jsonl(tmp_path / name, records)
    else:
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    experiment = write_chat_experiment(tmp_path, pool={"files": [str(tmp_path / name)]})
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "has no column `messages`, nor both `prompt` and `completion`; it has `text`" in err
    assert "`pool.prompt`" in err


def test_rows_of_equal_length_are_no_unit_of_conversations(tmp_path: Path, dsdm: Dsdm) -> None:
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, examples={"unit": "row"}))
    assert code == 2
    assert "a conversation is one row as it is" in err


def target_rows(folder: Path, tokenizer: Tokenizer, records: list[Any]) -> list[Row]:
    path = write_jsonl(folder / "target.jsonl", records)
    examples = list(read_jsonl_examples(str(path), " ", None))
    return [Row(e.tokens, e.answer_start) for e in encode_examples(examples, tokenizer, 128)]


def test_of_a_targets_chat_the_last_turn_is_the_answer(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (row,) = target_rows(tmp_path, tokenizer, [{"messages": TURNS[:5]}])
    assert shown(tokenizer, row.tokens[row.answer_start :]) == " on a mat <|endoftext|>"


def test_a_targets_chat_that_the_user_ends_is_an_error(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(DataError, match=r"target\.jsonl:1: the last message is of the 'user'"):
        target_rows(tmp_path, tokenizer, [{"messages": TURNS}])


def test_a_targets_prompt_and_completion_are_joined_as_they_are(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (row,) = target_rows(tmp_path, tokenizer, [{"prompt": "the cat", "completion": " sat"}])
    assert shown(tokenizer, row.tokens[row.answer_start :]) == " sat"


def test_a_conversation_of_bytes_is_read_as_text() -> None:
    found = parse_conversation({"p": b"the cat", "c": b" sat"}, "messages", "p", "c")
    assert (found.prompt, found.completion) == ("the cat", " sat")
    with pytest.raises(BadRecordError, match="invalid UTF-8"):
        parse_conversation({"p": b"\xff", "c": b" sat"}, "messages", "p", "c")


def test_a_plain_tokenizer_says_that_it_has_no_template() -> None:
    plain = make_tokenizer(TokenizerConfig(vocab_size=300), iter(["the cat sat"]))
    with pytest.raises(ModelError, match="no chat template"):
        _ = plain.chat
