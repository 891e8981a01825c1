import gzip
import json
from pathlib import Path

import pytest

from dsdm.data.target_files import TargetExample, read_jsonl_examples, read_texts
from dsdm.errors import DataError


def write_jsonl(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def read_pairs(path: str, delimiter: str = " ") -> list[tuple[str, str]]:
    examples = read_jsonl_examples(path, delimiter, None)
    return [(example.context, example.answer) for example in examples]


def test_every_shape_gives_the_gold_answer(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "shapes.jsonl",
        {"context": "Sky:", "continuation": "blue"},
        {"context": "1+1=", "answer": " 2", "chain_of_thought": "count"},
        {"query": "Grass: ", "choices": ["red", "green"], "gold": 1},
        {"context_options": ["Ann", "Bob"], "continuation": "left.", "gold": 0},
    )
    assert read_pairs(path) == [
        ("Sky:", " blue"),
        ("1+1=", " 2"),
        ("Grass: ", "green"),
        ("Ann", " left."),
    ]


def test_the_delimiter_stands_only_where_no_whitespace_is(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"context": "a", "continuation": "b"},
        {"context": "a\n", "continuation": "b"},
        {"context": "a", "continuation": "\nb"},
        {"context": "", "continuation": "b"},
    )
    assert [answer for _, answer in read_pairs(path, delimiter="=")] == ["=b", "b", "\nb", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "is not JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"context": "a \xff", "answer": "b"}', "is not JSON"),
        (b'{"prompt": "a"}', r"has columns \['prompt'\]; a target needs context"),
        (b'{"context": "a", "answer": 3}', "`answer` must be text, got 3"),
        (b'{"context": null, "answer": "3"}', "`context` must be text, got None"),
        (b'{"context": "a", "answer": " "}', "the answer is empty"),
        (b'{"query": "a", "choices": "b", "gold": 0}', "`choices` must be a list of texts"),
        (b'{"query": "a", "choices": ["b"], "gold": 1}', "`gold` must be a position"),
        (b'{"query": "a", "choices": ["b"], "gold": -1}', "`gold` must be a position"),
        (b'{"query": "a", "choices": ["b"], "gold": "b"}', "`gold` must be a position"),
        (b'{"query": "a", "choices": ["b", "c"], "gold": true}', "`gold` must be a position"),
    ],
)
def test_a_bad_line_is_an_error_that_names_it(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"context": "a", "answer": "b"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"bad\.jsonl:3: {message}"):
        read_pairs(str(path))


def test_all_bad_lines_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", [1], {"context": "a", "answer": "b"}, {}, "x")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: .* 2 more examples have problems"):
        read_pairs(path)


def test_groups_are_a_columns_values_or_the_text(tmp_path: Path) -> None:
    record = {"context": "a", "answer": "b", "title": "T"}
    path = write_jsonl(tmp_path / "a.jsonl", record)
    where = f"{path}:1"
    assert list(read_jsonl_examples(path, " ", "title")) == [TargetExample("a", " b", where, "T")]
    assert list(read_jsonl_examples(path, " ", None)) == [TargetExample("a", " b", where, "a b")]
    with pytest.raises(DataError, match=r"a\.jsonl:1: has no value in `topic`"):
        list(read_jsonl_examples(path, " ", "topic"))


def test_compressed_files_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"context": "a", "answer": "b"}\r\n'))
    assert read_pairs(str(path)) == [("a", " b")]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_pairs(str(tmp_path / "none.jsonl"))
    broken = tmp_path / "a.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"context": "a", "answer": "b"}\n' * 9)[:-12])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read"):
        read_pairs(str(broken))


def test_texts_come_from_a_file_a_glob_or_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"text of {name}\n", encoding="utf-8")
    both = [(str(tmp_path / name), f"text of {name}\n") for name in ("a.txt", "b.txt")]
    assert list(read_texts(str(tmp_path))) == both
    assert list(read_texts(str(tmp_path / "*.txt"))) == both
    assert list(read_texts(str(tmp_path / "b.txt"))) == both[1:]
    with pytest.raises(DataError, match="no file is there"):
        list(read_texts(str(tmp_path / "*.md")))


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: is not UTF-8"):
        list(read_texts(str(path)))
