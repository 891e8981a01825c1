import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dsdm.config import parse_config
from dsdm.data.batches import IGNORED, collate
from dsdm.data.target_rows import encode_pairs
from dsdm.data.tasks import (
    EXAMPLES,
    PARTS,
    Part,
    TargetConfig,
    load_target,
    read_target_texts,
    split_groups,
    write_target,
)
from dsdm.errors import ArtifactError, ConfigError, DataError


class WordTokenizer:
    """Words that carry the space in front of them, as byte-pair tokenizers make them."""

    eos = 0

    def __init__(self) -> None:
        self.pieces = ["<eos>"]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array([self._number(p) for p in _split(text)], np.int32) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        return "".join(self.pieces[i] for i in ids)

    def _number(self, piece: str) -> int:
        if piece not in self.pieces:
            self.pieces.append(piece)
        return self.pieces.index(piece)


def _split(text: str) -> list[str]:
    return re.findall(r" ?\w+|\s|[^\w\s]", text)


def write_examples(path: Path, count: int = 10, **columns: Any) -> str:
    records = [
        {"context": f"Say word number {i}:", "continuation": f"word{i} done", **columns}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def write(config: TargetConfig, folder: Path, row_tokens: int = 32) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    return write_target(config, WordTokenizer(), row_tokens, folder)  # type: ignore[arg-type]


def pairs_of(folder: Path, part: Part) -> list[tuple[str, str]]:
    return list(read_target_texts(folder, [part]))


def test_only_the_answers_tokens_are_labels(tmp_path: Path) -> None:
    tokenizer = WordTokenizer()
    config = TargetConfig(name="t", file=write_examples(tmp_path / "a.jsonl"))
    counts = write_target(config, tokenizer, 32, tmp_path)  # type: ignore[arg-type]
    rows = load_target(tmp_path, "fit")
    batch = collate([rows.row(i) for i in range(len(rows.lengths))])
    for labels, (_, answer) in zip(batch.labels.numpy(), pairs_of(tmp_path, "fit"), strict=True):
        assert tokenizer.decode(labels[labels != IGNORED]) == answer
    assert counts["answer_tokens"] == 10 * 2


def test_rows_are_context_and_answer_in_file_order(tmp_path: Path) -> None:
    tokenizer = WordTokenizer()
    config = TargetConfig(name="t", file=write_examples(tmp_path / "a.jsonl"))
    write_target(config, tokenizer, 32, tmp_path)  # type: ignore[arg-type]
    for part in PARTS:
        rows = load_target(tmp_path, part)
        texts = [context + answer for context, answer in pairs_of(tmp_path, part)]
        assert [tokenizer.decode(rows.row(i).tokens) for i in range(len(texts))] == texts
        assert rows.lengths.tolist() == [len(_split(text)) for text in texts]
        assert texts == sorted(texts)


def test_whitespace_that_ends_a_context_belongs_to_the_answer(tmp_path: Path) -> None:
    from dsdm.data.target_files import TargetExample

    tokenizer = WordTokenizer()
    [(tokens, start)] = encode_pairs(
        [TargetExample("The capital is ", "Paris", "here", "")],
        tokenizer,  # type: ignore[arg-type]
    )
    assert tokenizer.decode(tokens[start:]) == " Paris"
    assert [tokenizer.decode([token]) for token in tokens] == ["The", " capital", " is", " Paris"]


def test_an_answer_without_context_is_predicted_from_eos(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"context": c, "answer": f"word {c}."}) + "\n" for c in ("", " ", "\n"))
    )
    write(TargetConfig(name="t", file=str(path)), tmp_path)
    for part in PARTS:
        row = load_target(tmp_path, part).row(0)
        assert row.answer_start == 1
        assert row.tokens[0] == WordTokenizer.eos


def test_long_contexts_lose_their_beginning_and_are_counted(tmp_path: Path) -> None:
    tokenizer = WordTokenizer()
    config = TargetConfig(name="t", file=write_examples(tmp_path / "a.jsonl"))
    counts = write_target(config, tokenizer, 5, tmp_path)  # type: ignore[arg-type]
    row = load_target(tmp_path, "fit").row(0)
    context, answer = pairs_of(tmp_path, "fit")[0]
    assert len(row.tokens) == 5
    assert (context + answer).endswith(tokenizer.decode(row.tokens))
    assert tokenizer.decode(row.tokens[row.answer_start :]) == answer
    assert counts["left_cut_contexts"] == 10


def test_an_answer_too_long_for_a_row_is_an_error(tmp_path: Path) -> None:
    path = write_examples(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl:1: the answer has 2 tokens.* 9 more examples"):
        write(TargetConfig(name="t", file=path), tmp_path, row_tokens=2)
    assert write(TargetConfig(name="t", file=path), tmp_path, row_tokens=3)["fit"] == 4


def test_an_answer_that_melts_into_the_context_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"context": "foot", "answer": "ball"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: the answer 'ball' has no token of its own"):
        write(TargetConfig(name="t", file=str(path), delimiter=""), tmp_path)


def test_the_split_is_a_partition_that_the_seed_decides(tmp_path: Path) -> None:
    path = write_examples(tmp_path / "a.jsonl", 50)
    splits = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        counts = write(TargetConfig(name="t", file=path, seed=seed), tmp_path / folder)
        assert [counts[part] for part in PARTS] == [20, 10, 20]
        parts = [set(pairs_of(tmp_path / folder, part)) for part in PARTS]
        assert len(set.union(*parts)) == 50
        splits.append(parts)
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_a_group_stays_in_one_part() -> None:
    groups = [f"article {i // 7}" for i in range(700)]
    part_of = split_groups(groups, (0.4, 0.2, 0.4), seed=3)
    assert all(len({*part_of[start : start + 7]}) == 1 for start in range(0, 700, 7))
    assert Counter(part_of.tolist()) == {0: 280, 1: 140, 2: 280}


def test_equal_examples_stay_in_one_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"context": f"c{i % 20}", "answer": "a"}) + "\n" for i in range(100)]
    path.write_text("".join(lines))
    counts = write(TargetConfig(name="t", file=str(path)), tmp_path)
    assert counts["report_seen_before"] == 0
    parts = [set(pairs_of(tmp_path, part)) for part in PARTS]
    assert sum(map(len, parts)) == 20


def test_a_report_file_is_the_whole_report_part(tmp_path: Path) -> None:
    config = TargetConfig(
        name="t",
        file=write_examples(tmp_path / "a.jsonl", 30),
        report_file=write_examples(tmp_path / "b.jsonl", 7),
    )
    counts = write(config, tmp_path)
    assert [counts[part] for part in PARTS] == [20, 10, 7]
    assert counts["report_seen_before"] == 7


def test_a_smaller_limit_draws_from_a_larger_one(tmp_path: Path) -> None:
    path = write_examples(tmp_path / "a.jsonl", 100)
    drawn = {}
    for limit in (5, 15, 1000):
        write(TargetConfig(name="t", file=path, limit=limit), tmp_path)
        drawn[limit] = pairs_of(tmp_path, "fit")
    assert [len(pairs) for pairs in drawn.values()] == [5, 15, 40]
    assert set(drawn[5]) < set(drawn[15]) < set(drawn[1000])


def test_a_part_without_examples_is_an_error(tmp_path: Path) -> None:
    path = write_examples(tmp_path / "a.jsonl", 2)
    with pytest.raises(DataError, match=r"part 'tune' has no example.*has 2"):
        write(TargetConfig(name="t", file=path), tmp_path)
    empty = tmp_path / "b.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match="part 'fit' has no example"):
        write(TargetConfig(name="t", file=str(empty)), tmp_path)
    config = TargetConfig(
        name="t", file=write_examples(tmp_path / "a.jsonl"), report_file=str(empty)
    )
    with pytest.raises(DataError, match=r"b\.jsonl has no example"):
        write(config, tmp_path)


def test_every_token_of_a_text_counts_once(tmp_path: Path) -> None:
    text = " ".join(f"word{i}" for i in range(101))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = WordTokenizer()
    config = TargetConfig(name="t", text=str(tmp_path / "a.txt"))
    write_target(config, tokenizer, 10, tmp_path)  # type: ignore[arg-type]
    rows = [
        rows.row(i)
        for rows in (load_target(tmp_path, part) for part in PARTS)
        for i in range(len(rows.lengths))
    ]
    # The last row would have one token and no prediction.
    assert sorted(tokenizer.decode(row.tokens).strip() for row in rows) == sorted(
        " ".join(f"word{i}" for i in range(start, start + 10)) for start in range(0, 100, 10)
    )
    assert {row.answer_start for row in rows} == {1}


def test_writing_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TargetConfig(name="t", file=write_examples(tmp_path / "a.jsonl"))
    write(config, tmp_path / "a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    write(config, tmp_path / "b")
    names = [EXAMPLES, *(f"{part}.npz" for part in PARTS)]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_target_that_is_not_there_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="part 'fit' of the target"):
        load_target(tmp_path / "none", "fit")


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"file": "a", "text": "b"},
        {"file": "a", "fewshot": 2},
        {"task": "a", "report_file": "b"},
        {"text": "a", "group": "b"},
        {"file": "a", "split": [1.0, 0.0, 0.0]},
        {"file": "a", "split": [0.5, 0.5, 0.5]},
        {"file": "a", "limit": 0},
        {"file": "a", "weight": -1.0},
        {"file": "a", "name": "../x"},
        {"file": "a", "shots": 3},
    ],
)
def test_a_configuration_that_makes_no_sense_is_an_error(raw: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="target"):
        parse_config({"name": "t", **raw}, TargetConfig, where="target")


def test_the_configuration_is_frozen() -> None:
    config = TargetConfig(name="t", file="a")
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]
    assert msgspec.structs.replace(config, seed=1).seed == 1
