import filecmp
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdm.artifacts import PER_RUN
from dsdm.config import parse_config
from dsdm.data import packing, rows
from dsdm.data.arrays import ArrayFile, HashSet, map_array
from dsdm.data.documents import PoolConfig
from dsdm.data.duplicates import find_duplicates, load_duplicates
from dsdm.data.examples import Examples, ExamplesConfig, load_examples
from dsdm.data.packing import load_counts
from dsdm.data.rows import Unit, cut_rows
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.errors import ArtifactError, ConfigError
from tests.data.pools import dedupe, pack, packed, read_all, texts, tiny_tokenizer, write_jsonl

UNITS: list[Unit] = ["document", "row"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def pool(tmp_path: Path) -> PoolConfig:
    """Two files of 30 and 20 documents; one document is in both."""
    (tmp_path / "pool").mkdir()
    for name, seed, count in (("a", 0, 30), ("b", 1, 20)):
        records = [
            {"id": f"{name}{i}", "source": f"s{i % 3}", "text": text}
            for i, text in enumerate(texts(count, seed))
        ]
        records += [{"id": f"{name}x", "source": "s0", "text": "the same in both"}]
        write_jsonl(tmp_path / "pool" / f"{name}.jsonl", records)
    return PoolConfig(files=[str(tmp_path / "pool")])


def kept_texts(pool: PoolConfig) -> list[str]:
    """Texts of a pool in order, each once."""
    return list(dict.fromkeys(d.text or "" for d in read_all(pool)[0]))


def all_tokens(examples: Examples) -> np.ndarray:
    return np.concatenate([examples.row(i).tokens for i in range(examples.num_rows)])


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=30),
    row_tokens=st.integers(4, 12),
    unit=st.sampled_from(UNITS),
    block=st.integers(1, 9),
)
@settings(deadline=None)
def test_rows_cover_every_token_once_and_none_is_a_single_token(
    lengths: list[int], row_tokens: int, unit: Unit, block: int
) -> None:
    ends = np.cumsum(lengths)
    starts, total = ends - lengths, int(ends[-1])
    config = ExamplesConfig(unit=unit, row_tokens=row_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", block)
        cut = np.concatenate(list(cut_rows(starts, total, config)))
    assert np.array_equal(cut["start"], np.cumsum(cut["length"]) - cut["length"])
    assert cut["length"].sum() == total
    assert cut["length"].min() >= 2
    assert cut["length"].max() <= row_tokens
    assert np.array_equal(cut["document"], np.searchsorted(starts, cut["start"], "right") - 1)
    if unit == "document":
        assert (cut["start"] + cut["length"] <= ends[cut["document"]]).all()
        whole = [-(-length // row_tokens) for length in lengths]
        assert np.bincount(cut["document"]).tolist() == whole
    else:
        assert (cut["length"][:-2] == row_tokens).all()


@pytest.mark.parametrize("unit", UNITS)
def test_packing_loses_and_invents_no_token(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer, unit: Unit
) -> None:
    if unit == "row":  # a document that is dropped may own a part of a row that stays
        pool = PoolConfig(files=[f"{pool.files[0]}/a.jsonl"])
    examples = packed(tmp_path, pool, tokenizer, ExamplesConfig(unit=unit, row_tokens=8))
    expected = [
        token for ids in tokenizer.encode_batch(kept_texts(pool)) for token in [*ids, tokenizer.eos]
    ]
    assert all_tokens(examples).tolist() == expected
    assert examples.num_tokens == len(expected)
    assert examples.lengths.sum() == len(expected)
    assert examples.candidate_tokens.sum() == len(expected)


@pytest.mark.parametrize("unit", UNITS)
def test_views_of_candidates_agree_with_each_other(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer, unit: Unit
) -> None:
    examples = packed(tmp_path, pool, tokenizer, ExamplesConfig(unit=unit, row_tokens=8))
    assert len(examples.candidate_of_row) == len(examples.lengths) == examples.num_rows
    assert (np.diff(examples.candidate_of_row) >= 0).all()
    assert set(examples.candidate_of_row) == set(range(examples.num_candidates))
    tables = [examples.candidates_table(shard) for shard in examples.shards]
    lines = [line for table in tables for line in table.to_pylist()]
    assert [line["candidate"] for line in lines] == list(range(examples.num_candidates))
    for candidate in range(examples.num_candidates):
        (mine,) = np.nonzero(examples.candidate_of_row == candidate)
        tokens = np.concatenate([examples.row(int(i)).tokens for i in mine])
        assert np.array_equal(tokens, examples.tokens_of(candidate))
        assert len(tokens) == examples.candidate_tokens[candidate] == lines[candidate]["num_tokens"]


@pytest.mark.parametrize("unit", UNITS)
def test_some_rows_and_candidates_are_found_where_they_lie(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer, unit: Unit
) -> None:
    examples = packed(tmp_path, pool, tokenizer, ExamplesConfig(unit=unit, row_tokens=8))
    assert len(examples.shards) > 1
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(examples), 50)
    assert examples.lengths_of(rows).tolist() == examples.lengths[rows].tolist()
    some = np.sort(rng.choice(examples.num_candidates, 20, replace=False))
    assert examples.tokens_in(some).tolist() == examples.candidate_tokens[some].tolist()
    mine = np.flatnonzero(np.isin(examples.candidate_of_row, some))
    assert examples.rows_of(some).tolist() == mine.tolist()
    assert not len(examples.rows_of(some[:0])) + len(examples.tokens_in(some[:0]))


def test_a_document_candidate_is_the_text_it_was(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer
) -> None:
    examples = packed(tmp_path, pool, tokenizer, ExamplesConfig(row_tokens=8))
    documents = {d.id: d for d in read_all(pool)[0]}
    assert examples.num_candidates == 51
    for shard in examples.shards:
        for line in examples.candidates_table(shard).to_pylist():
            document = documents[line["id"]]
            assert examples.text_of(line["candidate"], tokenizer) == document.text
            assert (line["source"], line["file_row"]) == (document.source, document.row)
            assert Path(line["file"]).stem == line["id"][0]


def test_a_row_candidate_belongs_to_the_document_of_its_first_token(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer
) -> None:
    examples = packed(tmp_path, pool, tokenizer, ExamplesConfig(unit="row", row_tokens=100))
    first, second = examples.candidates_table(examples.shards[0]).to_pylist()[:2]
    assert first["id"] == "a0"
    assert examples.candidate_tokens[:2].tolist() == [100, 100]
    before = "".join(kept_texts(pool)[: int(second["id"][1:])])
    assert len(tokenizer.encode_batch([before])[0]) < 100 + 8
    table = pq.read_table(examples.shards[0].path / "documents.parquet")
    starts = table["start"].to_numpy()
    assert table["id"][int(np.searchsorted(starts, 100, "right")) - 1].as_py() == second["id"]


def test_duplicates_are_dropped_within_and_across_files(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    for name, chosen in (("a", "xxyx"), ("b", "yzx"), ("c", "xyz")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in chosen])
    pool = PoolConfig(files=[str(tmp_path / "*.jsonl")])
    shards = pack(tmp_path / "examples", pool, tokenizer)
    counts = [load_counts(path) for path in shards]
    assert [count.documents for count in counts] == [2, 3, 3]
    assert [count.duplicates for count in counts] == [2, 0, 0]
    (tmp_path / "duplicates").mkdir()
    found = find_duplicates(shards, "document", 0.0, tmp_path / "duplicates")
    assert (found.duplicates, found.documents) == (7, 3)
    examples = load_examples(shards, load_duplicates(tmp_path / "duplicates"), "document")
    assert [examples.text_of(i, tokenizer) for i in range(3)] == ["x", "y", "z"]


def folder_bytes(path: Path) -> dict[str, bytes]:
    files = (file for file in path.iterdir() if file.name not in PER_RUN)
    return {file.name: file.read_bytes() for file in files}


def test_packing_again_writes_the_same_bytes(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer
) -> None:
    once, again = (pack(tmp_path / name, pool, tokenizer) for name in ("once", "again"))
    for one, other in zip(once, again, strict=True):
        assert folder_bytes(one) == folder_bytes(other)


def test_the_size_of_chunks_changes_nothing(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = pack(tmp_path / "once", pool, tokenizer)
    monkeypatch.setattr(packing, "CHUNK_DOCUMENTS", 3)
    again = pack(tmp_path / "again", pool, tokenizer)
    for one, other in zip(once, again, strict=True):
        for name in ("tokens.npy", "rows.npy", "hashes.npy", "id_hashes.npy"):
            assert filecmp.cmp(one / name, other / name, shallow=False), name
        tables = [pq.read_table(path / "documents.parquet") for path in (one, other)]
        assert tables[0] == tables[1]


def test_a_file_without_a_new_document_is_an_empty_shard(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer
) -> None:
    twice = PoolConfig(files=[*pool.files, str(tmp_path / "copy.jsonl"), str(tmp_path / "z.jsonl")])
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "pool" / "a.jsonl").read_bytes())
    write_jsonl(tmp_path / "z.jsonl", [{"text": "last"}])
    for unit in UNITS:
        examples = packed(tmp_path / unit, twice, tokenizer, ExamplesConfig(unit=unit))
        assert [shard.num_rows > 0 for shard in examples.shards] == [True, True, False, True]
        assert examples.text_of(examples.num_candidates - 1, tokenizer) == "last"
        assert examples.candidates_table(examples.shards[2]).num_rows == 0


def test_tokenized_rows_are_packed_as_they_are(tmp_path: Path, tokenizer: Tokenizer) -> None:
    given_rows = [[1, 2, 3], [4, 5], [1, 2, 3], list(range(10, 30))]
    path = write_jsonl(tmp_path / "a.jsonl", [{"tokens": row} for row in given_rows])
    pool = PoolConfig(files=[str(path)], format="tokens")
    examples = packed(tmp_path / "examples", pool, tokenizer, ExamplesConfig(row_tokens=8))
    assert all_tokens(examples).tolist() == [1, 2, 3, 4, 5, *range(10, 30)]
    assert examples.lengths.tolist() == [3, 2, 8, 8, 4]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_tokens_take_two_bytes_where_the_vocabulary_fits(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer, vocab_size: int, dtype: str
) -> None:
    larger = Tokenizer(tokenizer.backend, tokenizer.eos, vocab_size)
    examples = packed(tmp_path, pool, larger)
    assert {shard.tokens.dtype for shard in examples.shards} == {np.dtype(dtype)}


def test_indices_outside_are_refused(
    tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer
) -> None:
    examples = packed(tmp_path, pool, tokenizer)
    for index in (-1, examples.num_rows):
        with pytest.raises(IndexError):
            examples.row(index)
    with pytest.raises(IndexError):
        examples.tokens_of(examples.num_candidates)


def test_a_damaged_shard_is_named(tmp_path: Path, pool: PoolConfig, tokenizer: Tokenizer) -> None:
    shards = pack(tmp_path, pool, tokenizer)
    found = dedupe(tmp_path / "duplicates", shards, "document")
    for name in ("rows.npy", "tokens.npy"):
        (shards[1] / name).write_bytes(b"?")
        examples = load_examples(shards, found, "document")
        with pytest.raises(ArtifactError, match=str(shards[1])):
            examples.row(examples.num_rows - 1)
    for name in ("hashes.npy", "piece.json"):
        (shards[1] / name).write_bytes(b"?")
        with pytest.raises(ArtifactError, match=str(shards[1])):
            dedupe(tmp_path / name, shards, "document")


def test_a_document_of_many_rows_is_packed_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = " ".join(texts(3000))
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": text}, {"text": "b"}])
    examples = packed(tmp_path / "examples", PoolConfig(files=[str(path)]), tokenizer)
    assert examples.num_candidates == 3
    assert examples.text_of(1, tokenizer) == text


def test_memory_does_not_grow_with_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "CHUNK_DOCUMENTS", 20)
    tokenizer = make_tokenizer(TokenizerConfig(vocab_size=257), iter(["a"]))
    peaks = []
    for count in (300, 1200):
        records = [{"text": text} for text in texts(count, longest=100)]
        path = write_jsonl(tmp_path / f"{count}.jsonl", records)
        del records
        tracemalloc.start()
        pack(tmp_path / str(count), PoolConfig(files=[str(path)]), tokenizer)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


@given(batches=st.lists(st.lists(st.integers(0, 60), unique=True, max_size=9), max_size=20))
def test_a_hash_set_is_a_set(batches: list[list[int]]) -> None:
    seen, expected = HashSet(), set[int]()
    for batch in batches:
        values = np.array(batch, np.uint64)
        found = seen.contains(values)
        assert found.tolist() == [value in expected for value in batch]
        seen.add(values[~found])
        expected.update(batch)


def test_an_array_file_is_what_numpy_would_have_saved(tmp_path: Path) -> None:
    pieces = [np.arange(i, dtype=np.uint16) for i in (3, 0, 100_000)]
    with ArrayFile(tmp_path / "ours.npy", np.dtype("<u2")) as file:
        for piece in pieces:
            file.append(piece)
    assert np.array_equal(np.load(tmp_path / "ours.npy"), np.concatenate(pieces))
    assert np.array_equal(map_array(tmp_path / "ours.npy"), np.concatenate(pieces))


def test_a_mapped_array_holds_no_file_open(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10_000))
    before = os.listdir("/proc/self/fd")
    mapped = [map_array(tmp_path / "a.npy") for _ in range(5)]
    assert os.listdir("/proc/self/fd") == before
    (tmp_path / "a.npy").unlink()
    assert [int(one.sum()) for one in mapped] == [49_995_000] * 5
    assert not mapped[0].flags.writeable
    del mapped
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_rows_of_too_few_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="row_tokens"):
        parse_config({"row_tokens": 1}, ExamplesConfig, "x.yaml")
