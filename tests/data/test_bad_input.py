"""Every kind of bad input has a message that says what, where and what to do."""

import gzip
import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from fsspec.registry import _registry

from dsdm.data.documents import PoolConfig, list_pieces, list_pool_files, read_original_rows
from dsdm.data.formats import jsonl
from dsdm.errors import DataError
from tests.data.pools import read_all, texts, write_jsonl
from tests.data.pools import write_parquet as write

TEXTS = texts(400)


def message(config: PoolConfig) -> str:
    """The message of the DataError that reading the pool ends with."""
    with pytest.raises(DataError) as caught:
        read_all(config)
    return str(caught.value)


def rejections(path: Path, **options) -> list[tuple[int, str]]:
    """Row and reason of what is rejected."""
    _, rejected = read_all(PoolConfig(files=[str(path)], **options))
    return [(one.row, one.reason) for one in rejected]


def test_no_file_is_an_empty_pool() -> None:
    assert "The pool is empty" in message(PoolConfig(files=[]))


def test_a_pattern_without_match_is_named(tmp_path: Path) -> None:
    for name in ("*.parquet", "absent.parquet"):
        found = message(PoolConfig(files=[str(tmp_path / name)]))
        assert str(tmp_path / name) in found
        assert "pool.files" in found


def test_a_folder_without_known_files_says_what_it_holds(tmp_path: Path) -> None:
    assert "it is empty" in message(PoolConfig(files=[str(tmp_path)]))
    (tmp_path / "a.csv").write_text("x")
    assert "a.csv" in message(PoolConfig(files=[str(tmp_path)]))


def test_an_unknown_format_is_named_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    found = message(PoolConfig(files=[str(tmp_path / "a.csv")]))
    assert re.search(r"a\.csv: unknown format `\.csv`.*\.parquet.*pool\.format", found)
    (tmp_path / "a.txt").write_text("x")
    assert "unknown format" in message(PoolConfig(files=[str(tmp_path / "a.txt")], format="tokens"))


def test_an_unknown_address_is_named() -> None:
    assert "nowhere://a.parquet" in message(PoolConfig(files=["nowhere://a.parquet"]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_saved_data_set_of_several_splits_asks_for_one(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    found = message(PoolConfig(files=[str(tmp_path / "both")]))
    assert "both/train" in found
    assert len(read_all(PoolConfig(files=[str(tmp_path / "both" / "train")]))[0]) == 1


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.parquet", {"body": ["x"], "id": ["1"]}),
        write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "id": "1"}]),
    ]
    for path in paths:
        found = message(PoolConfig(files=[str(path)]))
        assert re.search(rf"{path.name}: has no column `text`; .*`body`.*pool\.text", found)
        found = message(PoolConfig(files=[str(path)], text="body", id="uuid"))
        assert "has no column `uuid`" in found


def test_a_column_of_another_type_is_rejected_record_by_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [1, 2]})
    assert rejections(path) == [(0, "text is int, not a string"), (1, "text is int, not a string")]


@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.parquet", {"text": TEXTS}, row_group_size=100)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "overwritten": content[:middle] + b"\xff" * 500 + content[middle + 500 :],
            "empty": b"",
        }[damage]
    )
    found = message(PoolConfig(files=[str(path)]))
    assert re.search(r"a\.parquet: cannot be read .*cut short or damaged", found)
    if damage == "overwritten":
        assert "after row" in found


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    content = gzip.compress(lines) if kind == "gz" else compressor.compress(lines)
    kept, replaced = (-40, b"") if damage == "cut" else (-300, b"\xff" * 200 + content[-100:])
    content = content[:kept] + replaced
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(content)
    found = message(PoolConfig(files=[str(path)]))
    assert f"a.jsonl.{kind}: cannot be read" in found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_damaged_saved_data_set_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "set")
    (path,) = (tmp_path / "set").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-2000])
    assert "cannot be read" in message(PoolConfig(files=[str(tmp_path / "set")]))
    (tmp_path / "set" / "state.json").write_text("{}")
    assert "state.json" in message(PoolConfig(files=[str(tmp_path / "set")]))


def test_bad_lines_of_json_are_rejected_with_their_row(tmp_path: Path) -> None:
    lines = [
        {"text": "good"},
        b"{not json",
        b'["a", "list"]',
        b'{"text": "caf\xe9"}',
        b"",
        {"text": None},
        {"text": " \n"},
        {"text": 5},
        {"other": "field"},
        b'{"text": "\\ud800 half a pair"}',
        b"[" * 100_000,
        {"text": "x" * 200_001},
        {"text": "also good"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", lines)
    config = PoolConfig(files=[str(path)], max_document_bytes=200_000)
    documents, rejected = read_all(config)
    assert [(d.text, d.row) for d in documents] == [("good", 0), ("also good", 12)]
    reasons = [(one.row, one.reason.split(":")[0]) for one in rejected]
    assert reasons == [
        (1, "not JSON"),
        (2, "not a JSON object but list"),
        (3, "invalid UTF-8"),
        (5, "null text"),
        (6, "empty text"),
        (7, "text is int, not a string"),
        (8, "null text"),
        (9, "invalid UTF-8"),
        (10, "not JSON"),
        (11, "longer than 200000 bytes"),
    ]
    assert rejected[0].excerpt == "{not json\n"
    assert len(rejected[-1].excerpt) == 80


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_far_too_long_line_is_skipped_without_being_held_in_memory(
    tmp_path: Path, name: str
) -> None:
    size = 40_000_000
    records = [{"text": "before"}, {"text": "x" * size}, {"text": "after"}]
    path = write_jsonl(tmp_path / name, records)
    config = PoolConfig(files=[str(path)], max_document_bytes=1000)
    tracemalloc.start()
    documents, rejected = read_all(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in documents] == ["before", "after"]
    assert [one.row for one in rejected] == [1]
    assert rejected[0].reason == f"longer than 1000 bytes: {size + 13}"
    assert peak < 8_000_000


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 10 + b"\n" + b"b" * 11 + b"\n" + b"c" * 10)
    config = PoolConfig(files=[str(path)], text_documents="line", max_document_bytes=10)
    documents, rejected = read_all(config)
    assert [d.text for d in documents] == ["a" * 10, "c" * 10]
    assert [one.row for one in rejected] == [1]


def test_a_too_long_text_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 11)
    assert rejections(tmp_path / "a.txt", max_document_bytes=10) == [(0, "longer than 10 bytes")]


def test_bad_values_of_a_parquet_file_are_rejected_with_their_row(tmp_path: Path) -> None:
    broken = pa.array([b"caf\xe9"]).view(pa.string())
    column = pa.chunked_array([["good", None, "", "x" * 99], broken])
    path = write(tmp_path / "a.parquet", {"text": column})
    assert rejections(path, max_document_bytes=50) == [
        (1, "null text"),
        (2, "empty text"),
        (3, "longer than 50 bytes: 99"),
        (4, "invalid UTF-8"),
    ]


def test_bad_rows_of_tokens_are_rejected_with_their_row(tmp_path: Path) -> None:
    rows = [[1, 2], None, [], [3], [4, -5], [1.5, 2.0], "text", [[1], [2, 3]], [1, None]]
    path = write_jsonl(tmp_path / "a.jsonl", [{"tokens": row} for row in rows])
    assert rejections(path, format="tokens") == [
        (1, "null tokens"),
        (2, "empty tokens"),
        (3, "a single token, after which nothing is predicted"),
        (4, "negative token"),
        (5, "tokens are not a list of integers"),
        (6, "tokens are not a list of integers"),
        (7, "tokens are not a list of integers"),
        (8, "tokens are not a list of integers"),
    ]
    nested = pa.array([[1, 2], None, [1, None]], pa.list_(pa.int64()))
    path = write(tmp_path / "a.parquet", {"tokens": nested})
    assert [row for row, _ in rejections(path, format="tokens")] == [1, 2]


def test_original_rows_that_are_gone_are_named(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.parquet", {"text": ["a", "b"]}),
        write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}]),
    ]
    for path in paths:
        config = PoolConfig(files=[str(path)])
        (piece,) = list_pieces(list_pool_files(config), config)
        with pytest.raises(DataError, match=r"row 2 is no longer there.*changed since"):
            list(read_original_rows([(piece, np.array([1, 2]))], config))


class ClientError(Exception):
    """What botocore, aiohttp and the like raise: no OSError."""


class LockedStore(fsspec.AbstractFileSystem):
    """A store of one file whose client fails at one of the operations."""

    protocol = "locked"
    cachable = False
    fails_at = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _call(self, operation: str, path: str) -> None:
        if operation == self.fails_at:
            raise ClientError(f"403 for {path}; tried with url: /a.jsonl?token=hidden2 (Denied)")

    def exists(self, path: str, **options: Any) -> bool:
        self._call("exists", path)
        return True

    def isdir(self, path: str) -> bool:
        return False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._call("info", path)
        return {"name": path, "size": 60, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        self._call("open", path)
        stream = io.BytesIO(b'{"text": "one"}\n{"text": "two"}\n')
        if self.fails_at == "read":
            stream.readinto = lambda into: self._call("read", path)  # type: ignore[method-assign]
        return stream


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> type[LockedStore]:
    monkeypatch.setattr(LockedStore, "fails_at", "")
    monkeypatch.setitem(_registry, "locked", LockedStore)
    return LockedStore


SECRET_URL = "locked://user:hidden1@bucket/a.jsonl"


def test_a_store_that_works_is_read(locked: type[LockedStore]) -> None:
    documents, _ = read_all(PoolConfig(files=[SECRET_URL]))
    assert [document.text for document in documents] == ["one", "two"]


@pytest.mark.parametrize("operation", ["exists", "info", "open", "read"])
def test_what_the_client_of_a_store_raises_is_an_error_that_shows_no_secret(
    locked: type[LockedStore], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr(locked, "fails_at", operation)
    found = message(PoolConfig(files=[SECRET_URL]))
    does = "listed" if operation in ("exists", "info") else "read at its start"
    assert f"locked://***@bucket/a.jsonl: cannot be {does} (ClientError: 403 for " in found
    assert "hidden" not in found
    assert "user" not in found
    assert "url: /a.jsonl?*** (Denied)" in found
    assert "can be reached from here" in found


def test_a_store_that_refuses_the_log_in_is_named(
    locked: type[LockedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LockedStore, *arguments: Any, **options: Any) -> None:
        raise ClientError("no credentials")

    monkeypatch.setattr(locked, "__init__", refuse)
    found = message(PoolConfig(files=[SECRET_URL]))
    assert "locked://***@bucket/a.jsonl: cannot be opened (ClientError: no credentials)" in found


def test_an_error_of_ours_is_not_taken_for_one_of_a_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])

    def fail(line: bytes) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(jsonl, "_parse", fail)
    with pytest.raises(KeyError, match="a mistake"):
        read_all(PoolConfig(files=[str(path)]))
