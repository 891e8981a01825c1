import dataclasses
import gzip
import json
import math
import os
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard

from dsdm.config import parse_config
from dsdm.data.documents import (
    PoolConfig,
    content_fingerprint,
    list_pieces,
    list_pool_files,
    read_documents,
    read_original_rows,
    read_sample,
)
from dsdm.errors import ConfigError
from tests.data.pools import read_all, texts, write_jsonl, write_parquet

ROWS = [{"id": f"d{i}", "source": "web", "text": text} for i, text in enumerate(texts(5))]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def one_pool(path: Path, **options) -> PoolConfig:
    return PoolConfig(files=[str(path)], **options)


def make_every_format(folder: Path) -> list[Path]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (folder / "b.jsonl").write_bytes(lines)
    (folder / "c.json.gz").write_bytes(gzip.compress(lines[:99]) + gzip.compress(lines[99:]))
    compressor = zstandard.ZstdCompressor()
    frames = compressor.compress(lines[:99]) + compressor.compress(lines[99:])
    (folder / "d.jsonl.zst").write_bytes(frames)
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "e", num_shards=2)
    return [
        write_parquet(folder / "a.parquet", COLUMNS, row_group_size=2),
        folder / "b.jsonl",
        folder / "c.json.gz",
        folder / "d.jsonl.zst",
        folder / "e",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    for path in make_every_format(tmp_path):
        documents, rejected = read_all(one_pool(path))
        assert [d.id for d in documents] == COLUMNS["id"], path
        assert [d.text for d in documents] == COLUMNS["text"], path
        assert {d.source for d in documents} == {"web"}
        assert not rejected


@pytest.mark.parametrize(
    "type",
    [pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_columns_of_every_string_type_are_read(tmp_path: Path, type: pa.DataType) -> None:
    column = pa.array(COLUMNS["text"]).cast(type)
    path = write_parquet(tmp_path / "a.parquet", {"text": column})
    assert [d.text for d in read_all(one_pool(path))[0]] == COLUMNS["text"]


def test_a_text_file_is_one_document_or_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\r\n\ntwo\nthree")
    (whole,) = read_all(one_pool(path))[0]
    assert (whole.text, whole.id, whole.source) == ("one\r\n\ntwo\nthree", None, "notes")
    lines = read_all(one_pool(path, text_documents="line"))[0]
    assert [(d.text, d.row) for d in lines] == [("one", 0), ("two", 2), ("three", 3)]


def test_files_are_read_through_fsspec_urls(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", COLUMNS)
    with fsspec.open("memory://pool/a.parquet", "wb") as file:
        file.write(source.read_bytes())
    documents, _ = read_all(PoolConfig(files=["memory://pool/*.parquet"]))
    assert [d.text for d in documents] == COLUMNS["text"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hub_id_is_read_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", ROWS)
    documents, _ = read_all(PoolConfig(files=[f"hf:{tmp_path}/set:train"]))
    assert [d.text for d in documents] == COLUMNS["text"]


def test_the_order_of_files_is_as_given_and_sorted_within_a_folder_or_glob(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        (tmp_path / "more").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "more" / f"{name}.jsonl", ROWS)
    write_jsonl(tmp_path / "z.jsonl", ROWS)
    (tmp_path / "more" / "README.md").write_text("not data")
    (tmp_path / "more" / ".hidden.jsonl").write_text("not data")
    for more in (tmp_path / "more", tmp_path / "more" / "*.jsonl"):
        config = PoolConfig(files=[str(tmp_path / "z.jsonl"), str(more), str(tmp_path / "z*")])
        names = [Path(file.url).name for file in list_pool_files(config)]
        assert names == ["z.jsonl", "a.jsonl", "b.jsonl", "c.jsonl"]


def fingerprint_of(path: Path) -> str:
    (file,) = list_pool_files(one_pool(path))
    return content_fingerprint(file, lambda count: None)


def test_a_files_fingerprint_changes_with_its_bytes_and_only_then(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    before = fingerprint_of(path)
    os.utime(path, (1, 1))
    assert fingerprint_of(path) == before
    path.write_bytes(path.read_bytes().replace(b"e", b"a", 1))
    assert fingerprint_of(path) != before


def test_a_file_in_an_object_store_goes_by_its_version_and_is_not_read(tmp_path: Path) -> None:
    with fsspec.open("memory://pool/a.jsonl", "wb") as stream:
        stream.write(b"{}")
    (file,) = list_pool_files(PoolConfig(files=["memory://pool/a.jsonl"]))
    read: list[int] = []
    before = content_fingerprint(file, read.append)
    other = dataclasses.replace(file, version="2")
    assert content_fingerprint(other, read.append) != before
    assert not read


def test_ids_and_sources_default_to_the_name_of_the_file(tmp_path: Path) -> None:
    records = [{"text": "a b"}, {"text": "c", "id": 7, "source": None}, {"text": "d", "id": ""}]
    path = write_jsonl(tmp_path / "crawl.jsonl.gz", records)
    documents, _ = read_all(one_pool(path))
    assert [d.id for d in documents] == [None, "7", None]
    assert {d.source for d in documents} == {"crawl"}
    documents, _ = read_all(one_pool(path, id=None))
    assert [d.id for d in documents] == [None, None, None]


def test_tokenized_rows_are_read_as_arrays(tmp_path: Path) -> None:
    rows = [[1, 2, 3], [4, 5]]
    nested = pa.array(rows, pa.list_(pa.int32()))
    paths = [
        write_parquet(tmp_path / "a.parquet", {"tokens": nested}),
        write_jsonl(tmp_path / "b.jsonl", [{"tokens": row} for row in rows]),
    ]
    for path in paths:
        documents, _ = read_all(one_pool(path, format="tokens"))
        assert [d.tokens.tolist() for d in documents if d.tokens is not None] == rows
        assert {d.text for d in documents} == {None}


def test_a_sample_keeps_about_its_share_and_does_not_depend_on_other_documents(
    tmp_path: Path,
) -> None:
    records = [{"text": text} for text in texts(1000)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    half = write_jsonl(tmp_path / "half.jsonl", records[500:])
    kept = [d.text for d in read_all(one_pool(path, sample=0.3))[0]]
    assert abs(len(kept) - 300) < 4 * math.sqrt(1000 * 0.3 * 0.7)
    of_half = [d.text for d in read_all(one_pool(half, sample=0.3))[0]]
    assert of_half == [text for text in kept if text in {r["text"] for r in records[500:]}]
    more = [d.text for d in read_all(one_pool(path, sample=0.6))[0]]
    assert set(kept) < set(more)
    other = [d.text for d in read_all(one_pool(path, sample=0.3, sample_seed=1))[0]]
    assert other != kept


def test_the_tokenizers_sample_takes_from_every_file_by_its_size(tmp_path: Path) -> None:
    for name, count in (("a", 100), ("b", 300)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts(count)])
    config = one_pool(tmp_path)
    documents = list(read_sample(list_pool_files(config), config, 4000))
    num_bytes = {
        source: sum(len(d.text.encode()) for d in documents if d.text and d.source == source)
        for source in ("a", "b")
    }
    assert 0 < num_bytes["a"] - 1000 < 1000
    assert 0 < num_bytes["b"] - 3000 < 1000


def test_original_rows_keep_all_columns(tmp_path: Path) -> None:
    columns = COLUMNS | {"score": [0.5, None, 2.5, 3.5, 4.5], "tags": [[1], [], [2, 3], None, [4]]}
    rows = [{name: column[i] for name, column in columns.items()} for i in range(5)]
    parquet = write_parquet(tmp_path / "a.parquet", columns, row_group_size=2)
    jsonl = write_jsonl(tmp_path / "b.jsonl", [rows[0], b"", b"{broken", *rows[1:]])
    for path, chosen in ((parquet, [1, 2, 4]), (jsonl, [3, 4, 6])):
        config = one_pool(path)
        (piece,) = list_pieces(list_pool_files(config), config)
        batches = list(read_original_rows([(piece, np.array(chosen))], config))
        got = [row for batch in batches for row in batch.to_pylist()]
        assert got == [rows[1], rows[2], rows[4]], path


def test_original_rows_of_a_text_file_are_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    config = one_pool(tmp_path / "a.txt", text_documents="line")
    (piece,) = list_pieces(list_pool_files(config), config)
    (batch,) = read_original_rows([(piece, np.array([0, 2]))], config)
    assert batch.to_pylist() == [{"text": "one"}, {"text": "three"}]


def test_columns_of_several_types_or_always_empty_objects_become_json_text(tmp_path: Path) -> None:
    records = [
        {"text": "a", "n": 1, "mixed": 1, "empty": {}, "list": [], "x": None},
        {"text": "b", "n": 1.5, "mixed": "y", "empty": {}, "list": [2], "deep": {"k": {}}},
        {"text": "c", "mixed": [3], "empty": None, "list": None},
    ]
    config = one_pool(write_jsonl(tmp_path / "a.jsonl", records))
    (piece,) = list_pieces(list_pool_files(config), config)
    (batch,) = read_original_rows([(piece, np.arange(3))], config)
    assert batch.to_pydict() == {
        "text": ["a", "b", "c"],
        "n": [1.0, 1.5, None],
        "mixed": ["1", '"y"', "[3]"],
        "empty": ["{}", "{}", None],
        "list": [[], [2], None],
        "x": [None, None, None],
        "deep": [None, '{"k": {}}', None],
    }


def test_all_batches_of_original_lines_have_one_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdm.data.formats.columns.BATCH_ROWS", 2)
    records = [{"text": "a", "n": i if i < 4 else i + 0.5} for i in range(6)] + [{"late": [1]}]
    config = one_pool(write_jsonl(tmp_path / "a.jsonl", records))
    (piece,) = list_pieces(list_pool_files(config), config)
    table = pa.Table.from_batches(read_original_rows([(piece, np.arange(7))], config))
    assert table["n"].to_pylist() == [0, 1, 2, 3, 4.5, 5.5, None]
    assert table["late"].to_pylist() == [None] * 6 + [[1]]


def test_a_row_reads_the_same_before_and_after_packing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [b"not json", *ROWS, {"text": None}])
    config = one_pool(path)
    (piece,) = list_pieces(list_pool_files(config), config)
    documents = list(read_documents(piece, config, lambda rejected: None))
    rows = np.array([d.row for d in documents])
    (batch,) = read_original_rows([(piece, rows)], config)
    assert batch["text"].to_pylist() == [d.text for d in documents]


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"files": ["a"], "sample": 0}, "sample"),
        ({"files": ["a"], "sample": 1.5}, "sample"),
        ({"files": ["a"], "format": "csv"}, "format"),
        ({"files": ["a"], "max_rejected_share": -1}, "max_rejected_share"),
        ({"files": "a"}, "files"),
    ],
)
def test_a_wrong_setting_is_named(raw: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        parse_config(raw, PoolConfig, "x.yaml")
