"""Where a pool is cut changes nothing of what is read, packed and dropped."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdm.data import packing
from dsdm.data.documents import Document, PoolConfig, list_pieces, list_pool_files
from dsdm.data.duplicates import Duplicates, find_duplicates
from dsdm.data.examples import Examples, ExamplesConfig, Unit, load_examples
from dsdm.errors import DataError
from tests.data.pools import (
    dedupe,
    pack,
    packed,
    read_all,
    texts,
    tiny_tokenizer,
    write_jsonl,
    write_parquet,
)

TOKENIZER = tiny_tokenizer()
WHOLE = 1 << 40

LINES = st.one_of(
    st.builds(
        lambda text, id: json.dumps({"text": text} | ({} if id is None else {"id": id})).encode(),
        st.sampled_from(["a", "b", "c d e f", "天气", "x" * 70, "long " * 30]),
        st.sampled_from([None, "1", "2", "3", ""]),
    ),
    st.sampled_from(
        [b"", b"  ", b"{broken", b"[1]", b'{"text": null}', b"\xff", b'\xef\xbb\xbf{"text": "m"}']
    ),
)
FILES = st.lists(
    st.tuples(
        st.lists(LINES, max_size=12),
        st.sampled_from([b"\n", b"\r\n"]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


def write_files(folder: Path, files: Sequence[tuple[list[bytes], bytes, bool, bool]]) -> PoolConfig:
    """Files of lines; some end without a line end, some begin with a byte-order mark."""
    for number, (lines, end, ends, has_mark) in enumerate(files):
        content = end.join(lines) + (end if ends else b"")
        (folder / f"{number}.jsonl").write_bytes(b"\xef\xbb\xbf" * has_mark + content)
    return PoolConfig(files=[str(folder / "*.jsonl")], max_rejected_share=1.0)


def what_was_read(config: PoolConfig, piece_bytes: int) -> tuple[list[Any], list[Any]]:
    documents, rejected = read_all(config, piece_bytes)
    return [(d.id, d.source, d.text) for d in documents], [(r.reason, r.excerpt) for r in rejected]


@given(files=FILES, piece_bytes=st.integers(5, 300))
@settings(deadline=None, max_examples=50)
def test_pieces_of_any_size_read_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[bytes], bytes, bool, bool]],
    piece_bytes: int,
) -> None:
    config = write_files(tmp_path_factory.mktemp("pool"), files)
    assert what_was_read(config, piece_bytes) == what_was_read(config, WHOLE)


def first_of_each(documents: Sequence[Document]) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the documents that stay, of copies, and of those with an old id."""
    contents, ids = set[str](), set[str]()
    stay, copies, with_old_id = [], [], []
    for number, document in enumerate(documents):
        assert document.text is not None
        if document.text in contents:
            copies.append(number)
        contents.add(document.text)
    for number, document in enumerate(documents):
        if number in copies:
            continue
        if document.id in ids:
            with_old_id.append(number)
            continue
        stay.append(number)
        if document.id is not None:
            ids.add(document.id)
    return stay, copies, with_old_id


def lines_of(examples: Examples) -> list[tuple[str, int, str]]:
    """Id, row in the file and text of each candidate."""
    lines = [line for s in examples.shards for line in examples.candidates_table(s).to_pylist()]
    assert [line["candidate"] for line in lines] == list(range(examples.num_candidates))
    return [
        (line["id"], line["file_row"], examples.text_of(number, TOKENIZER))
        for number, line in enumerate(lines)
    ]


def load(folder: Path, shards: Sequence[Path], unit: Unit = "document", **options: Any) -> Examples:
    return load_examples(shards, dedupe(folder, shards, unit, **options), unit)


@given(files=FILES, piece_bytes=st.integers(40, 500), partition=st.integers(1, 20))
@settings(deadline=None, max_examples=25)
def test_pieces_of_any_size_keep_the_documents_that_sets_would(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[bytes], bytes, bool, bool]],
    piece_bytes: int,
    partition: int,
) -> None:
    folder = tmp_path_factory.mktemp("pool")
    config = write_files(folder, files)
    documents, _ = read_all(config, WHOLE)
    stay, copies, with_old_id = first_of_each(documents)
    shards = pack(folder / "examples", config, TOKENIZER, None, piece_bytes)
    out = folder / "duplicates"
    out.mkdir()
    counts = find_duplicates(shards, "document", 1.0, out, partition_hashes=partition)
    assert (counts.duplicates, counts.rejected) == (len(copies), len(with_old_id))
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [one["row"] for one in listed] == [documents[number].row for number in with_old_id]
    if not stay:
        with pytest.raises(DataError, match="no usable document"):
            load(folder / "again", shards)
        return
    found = lines_of(load(folder / "again", shards))
    assert [line[1:] for line in found] == [(documents[i].row, documents[i].text) for i in stay]
    for (id, row, _), number in zip(found, stay, strict=True):
        assert id == (documents[number].id or f"{documents[number].source}#{row}")
    assert counts.documents == len(stay)


@pytest.mark.parametrize("unit", ["document", "row"])
@pytest.mark.parametrize("piece_bytes", [300, 3000, WHOLE])
def test_the_examples_agree_with_each_other_where_much_is_dropped(
    tmp_path: Path, unit: Unit, piece_bytes: int
) -> None:
    rng = np.random.default_rng(0)
    known = texts(40)
    for name in "abc":
        records = [{"text": known[i]} for i in rng.integers(0, 40, 60)]
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    config = PoolConfig(files=[str(tmp_path / "*.jsonl")])
    examples = packed(
        tmp_path / "examples",
        config,
        TOKENIZER,
        ExamplesConfig(unit=unit, row_tokens=8),
        piece_bytes,
    )
    rows = [examples.row(i).tokens for i in range(examples.num_rows)]
    assert [len(row) for row in rows] == examples.lengths.tolist()
    assert examples.num_tokens == examples.lengths.sum() == examples.candidate_tokens.sum()
    some = rng.integers(0, examples.num_rows, 50)
    assert examples.lengths_of(some).tolist() == examples.lengths[some].tolist()
    chosen = np.sort(rng.choice(examples.num_candidates, 15, replace=False))
    assert examples.tokens_in(chosen).tolist() == examples.candidate_tokens[chosen].tolist()
    mine = np.flatnonzero(np.isin(examples.candidate_of_row, chosen))
    assert examples.rows_of(chosen).tolist() == mine.tolist()
    for candidate in range(examples.num_candidates):
        (own,) = np.nonzero(examples.candidate_of_row == candidate)
        tokens = np.concatenate([rows[i] for i in own])
        assert np.array_equal(tokens, examples.tokens_of(candidate))
    for shard in examples.shards:
        assert len(shard.rows) == shard.num_rows == len(shard.lengths)
        for index in range(shard.num_rows):
            assert np.array_equal(shard.row(index).tokens, rows[shard.first_row + index])
            start, length, _ = shard.rows[index].tolist()
            assert np.array_equal(shard.tokens[start : start + length], shard.row(index).tokens)
        blocks = list(examples.read_candidates(shard))
        assert sum(len(table) for _, table in blocks) == shard.num_candidates
        assert blocks[-1][0].stop == shard.num_rows
    if unit == "document":
        stay, _, _ = first_of_each(read_all(config)[0])
        assert examples.num_candidates == len(stay)


def test_a_row_goes_where_half_of_its_tokens_are_of_documents_that_go(tmp_path: Path) -> None:
    old, new = list(range(2, 6)), list(range(10, 16))
    write_jsonl(tmp_path / "a.jsonl", [{"tokens": old}])
    write_jsonl(tmp_path / "b.jsonl", [{"tokens": new}, {"tokens": old}, {"tokens": [20, 21]}])
    config = PoolConfig(files=[str(tmp_path / "*.jsonl")], format="tokens")
    kept = {}
    for row_tokens in (4, 5, 12):
        folder = tmp_path / str(row_tokens)
        examples = packed(
            folder, config, TOKENIZER, ExamplesConfig(unit="row", row_tokens=row_tokens)
        )
        found = [examples.row(i).tokens.tolist() for i in range(examples.num_rows)]
        assert found[0] == old
        kept[row_tokens] = found[1:]
    assert kept[4] == [new[:4]]
    assert kept[5] == [new[:5], [20, 21]]
    assert kept[12] == [[*new, *old, 20, 21]]


def test_row_groups_are_joined_to_pieces_and_read_apart(tmp_path: Path) -> None:
    columns = {"text": texts(50), "id": [str(i) for i in range(50)], "n": list(range(50))}
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=7)
    config = PoolConfig(files=[str(path)])
    sizes = [pq.read_metadata(path).row_group(i).total_byte_size for i in range(8)]
    for piece_bytes in (1, sizes[0] + sizes[1], WHOLE):
        pieces = list_pieces(list_pool_files(config), config, piece_bytes)
        assert len(pieces) == {1: 8, WHOLE: 1}.get(piece_bytes, len(pieces))
        assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
        assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        documents, _ = read_all(config, piece_bytes)
        assert [document.text for document in documents] == columns["text"]
        examples = packed(tmp_path / str(piece_bytes), config, TOKENIZER, None, piece_bytes)
        assert [(id, row) for id, row, _ in lines_of(examples)] == [(str(i), i) for i in range(50)]
    assert 2 < len(list_pieces(list_pool_files(config), config, sizes[0] + sizes[1])) < 8


def test_an_empty_table_is_one_piece(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": []})
    config = PoolConfig(files=[str(path)])
    (piece,) = list_pieces(list_pool_files(config), config)
    assert piece.is_whole
    assert read_all(config) == ([], [])


def test_lines_of_text_are_cut_and_files_of_text_and_compressed_files_are_not(
    tmp_path: Path,
) -> None:
    content = "\r\n".join(texts(30))
    (tmp_path / "a.txt").write_bytes(content.encode())
    write_jsonl(tmp_path / "b.jsonl.gz", [{"text": text} for text in texts(30)])

    def count(name: str, **options: Any) -> int:
        config = PoolConfig(files=[str(tmp_path / name)], **options)
        assert what_was_read(config, 50) == what_was_read(config, WHOLE)
        return len(list_pieces(list_pool_files(config), config, 50))

    assert count("a.txt") == count("b.jsonl.gz") == 1
    assert count("a.txt", text_documents="line") == math.ceil(len(content.encode()) / 50)


def test_pieces_of_a_file_in_a_store_are_read_from_their_places(tmp_path: Path) -> None:
    content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts(40))
    with fsspec.open("memory://pieces/a.jsonl", "wb") as file:
        file.write(content)
    config = PoolConfig(files=["memory://pieces/a.jsonl"])
    assert len(list_pieces(list_pool_files(config), config, 100)) > 10
    assert [d.text for d in read_all(config, 100)[0]] == texts(40)


def test_a_damaged_file_says_in_which_piece(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": texts(400)}, row_group_size=100)
    about = pq.read_metadata(path).row_group(2).column(0)
    content = bytearray(path.read_bytes())
    content[about.data_page_offset + 60 : about.data_page_offset + 300] = b"\xff" * 240
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read (at its start|after row)"):
        read_all(PoolConfig(files=[str(path)]), 1)


def test_the_order_in_which_pieces_are_packed_changes_no_byte(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in [*texts(30), *texts(10)]])
    config = PoolConfig(files=[str(tmp_path / "a.jsonl")])
    pieces = list_pieces(list_pool_files(config), config, 500)
    for name, order in (("one", pieces), ("other", pieces[::-1])):
        for piece in order:
            folder = tmp_path / name / f"{piece.number:05d}"
            folder.mkdir(parents=True)
            packing.pack(piece, config, ExamplesConfig(), TOKENIZER, folder)
        dedupe(tmp_path / name / "duplicates", sorted((tmp_path / name).iterdir()), "document")
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "other")
    ]
    assert len(files[0]) > 20
    assert files[0] == files[1]


def test_the_size_of_partitions_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = [{"text": f"t{rng.integers(300)}", "id": str(rng.integers(700))} for _ in range(800)]
    write_jsonl(tmp_path / "a.jsonl", records)
    config = PoolConfig(files=[str(tmp_path / "a.jsonl")], max_rejected_share=1)
    shards = pack(tmp_path / "examples", config, TOKENIZER, None, 2000)
    found = [
        dedupe(tmp_path / str(size), shards, "document", partition_hashes=size)
        for size in (3, 100, 1 << 20)
    ]
    assert len(found[0].dropped) > 100
    for one in found[1:]:
        assert np.array_equal(one.dropped, found[0].dropped)
        assert np.array_equal(one.pieces, found[0].pieces)


def test_documents_of_another_pool_count_as_earlier(tmp_path: Path) -> None:
    for name, chosen in (("run", "abbc"), ("later", "xbyax"), ("last", "yzxc")):
        (tmp_path / name).mkdir()
        records = [{"text": text, "id": f"{name}{i}"} for i, text in enumerate(chosen)]
        records += [{"text": f"{name} of this id", "id": "everywhere"}]
        write_jsonl(tmp_path / name / "a.jsonl", records)
    pools: list[tuple[list[Path], Duplicates]] = []
    found = []
    for name in ("run", "later", "last"):
        config = PoolConfig(files=[str(tmp_path / name)], max_rejected_share=0.5)
        shards = pack(tmp_path / name / "examples", config, TOKENIZER, None, 30)
        duplicates = dedupe(tmp_path / name / "out", shards, "document", 0.5, against=pools)
        examples = load_examples(shards, duplicates, "document")
        found.append([examples.text_of(i, TOKENIZER) for i in range(examples.num_candidates)])
        pools.append((shards, duplicates))
    assert found == [["a", "b", "c", "run of this id"], ["x", "y"], ["z"]]


def test_too_many_rejects_over_all_pieces_of_a_file_are_listed_with_their_rows(
    tmp_path: Path,
) -> None:
    records = [{"id": str(i % 7), "text": text} for i, text in enumerate(texts(10))]
    write_jsonl(tmp_path / "a.jsonl", [b"", {"text": "fine"}])
    write_jsonl(tmp_path / "b.jsonl", [*records[:4], b"{broken", b"", *records[4:]])
    config = PoolConfig(files=[str(tmp_path / "*.jsonl")], max_rejected_share=0.3)
    with pytest.raises(DataError) as caught:
        packed(tmp_path / "examples", config, TOKENIZER, None, 100)
    listed = tmp_path / "examples" / "rejected-duplicates.jsonl"
    for part in ("b.jsonl: 4 of 11 records", "3 duplicate id; 1 not JSON", str(listed)):
        assert part in str(caught.value)
    rows = [
        (line["row"], line["reason"][:4])
        for line in map(json.loads, listed.read_text().splitlines())
    ]
    assert rows == [(4, "not "), (9, "dupl"), (10, "dupl"), (11, "dupl")]
    config = PoolConfig(files=config.files, max_rejected_share=0.4)
    examples = packed(tmp_path / "more", config, TOKENIZER, None, 100)
    assert examples.num_candidates == 8
    assert not (tmp_path / "more" / "rejected-duplicates.jsonl").exists()


MANY_FILES = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from dsdm.data.documents import PoolConfig, list_pieces, list_pool_files
from dsdm.data.duplicates import find_duplicates, load_duplicates
from dsdm.data.examples import ExamplesConfig, load_examples
from dsdm.data.packing import pack
from tests.data.pools import tiny_tokenizer
folder = Path(sys.argv[1])
pool = PoolConfig(files=[str(folder / "pool")])
tokenizer = tiny_tokenizer()
shards = []
for number, piece in enumerate(list_pieces(list_pool_files(pool), pool)):
    shards.append(folder / str(number))
    shards[-1].mkdir()
    pack(piece, pool, ExamplesConfig(), tokenizer, shards[-1])
(folder / "duplicates").mkdir()
find_duplicates(shards, "document", 0.0, folder / "duplicates")
examples = load_examples(shards, load_duplicates(folder / "duplicates"), "document")
rows = [examples.row(i) for i in range(examples.num_rows)]
texts = {examples.text_of(i, tokenizer) for i in range(examples.num_candidates)}
print(len(examples.shards), examples.num_candidates, len(texts), len(rows))
"""


def test_a_pool_of_2000_files_needs_no_more_than_256_open_files(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(2000):
        write_jsonl(
            tmp_path / "pool" / f"{number:04d}.jsonl",
            [{"text": f"file {number}"}, {"text": f"one of {number // 2}"}],
        )
    run = subprocess.run(
        [sys.executable, "-c", MANY_FILES, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.split() == ["2000", "3000", "3000", "3000"], run.stderr
