import datetime
import filecmp
import importlib.util
import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdm.config import parse_config
from dsdm.data import export as exporting
from dsdm.data.documents import PoolConfig, list_pieces, list_pool_files, read_documents
from dsdm.data.examples import ExamplesConfig
from dsdm.data.export import ExportConfig, require_writer
from dsdm.data.export.jsonl import write_jsonl
from dsdm.data.export.megatron import write_megatron
from dsdm.data.export.parquet import write_parquet
from dsdm.data.formats import PIECE_BYTES
from dsdm.data.tokenizer import TokenizerConfig, make_tokenizer
from dsdm.errors import ConfigError, DataError
from tests.data.pools import packed

BOOKS = [
    {"id": f"book-{i}", "text": f"Chapter {i} tells of {'many ' * (i + 1)}ships.", "year": 1900 + i}
    for i in range(7)
]
BOOKS.insert(3, {"id": "book-empty", "text": "", "year": 0})
WEB = [
    {"id": f"web-{i}", "source": "blog", "text": f"Page {i} sells {i} shoes.", "tags": ["a", "b"]}
    for i in range(5)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    table = pa.Table.from_pylist(BOOKS).replace_schema_metadata({"huggingface": "{stale}"})
    pq.write_table(table, folder / "books.parquet", row_group_size=3)
    lines = (json.dumps(record) for record in WEB)
    (folder / "web.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def load_pool(folder, work, unit="document", piece_bytes=PIECE_BYTES, **options):
    config = PoolConfig(files=[str(folder)], max_rejected_share=0.5, **options)
    pieces = list_pieces(list_pool_files(config), config, piece_bytes)
    texts = [d.text for piece in pieces for d in read_documents(piece, config, print)]
    tokenizer = make_tokenizer(TokenizerConfig(vocab_size=300), iter(texts))
    examples_config = ExamplesConfig(unit=unit, row_tokens=8)
    examples = packed(work, config, tokenizer, examples_config, piece_bytes)
    scores = np.linspace(-1, 1, examples.num_candidates)
    return SimpleNamespace(
        examples=examples, scores=scores, pieces=pieces, config=config, tokenizer=tokenizer
    )


@pytest.fixture(scope="module", params=["document", "row"])
def any_pool(request, files, tmp_path_factory):
    return load_pool(files, tmp_path_factory.mktemp("examples"), request.param)


@pytest.fixture(scope="module")
def pool(files, tmp_path_factory):
    return load_pool(files, tmp_path_factory.mktemp("examples"))


def export(pool, chosen, folder, **config):
    folder.mkdir(parents=True)
    chosen = np.array(chosen, np.int64)
    return exporting.export(
        pool.examples,
        chosen,
        pool.scores[chosen],
        pool.pieces,
        pool.config,
        pool.tokenizer,
        ExportConfig(**config),
        folder,
    )


def read_jsonl(folder):
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def read_megatron(folder):
    """Sequences and document boundaries, read as Megatron-LM's IndexedDataset does."""
    index = (folder / "dataset.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_boundaries = struct.unpack("<QBQQ", index[9:34])
    assert version == 1
    dtype = {4: np.int32, 8: np.uint16}[code]
    lengths = np.frombuffer(index, np.int32, num_sequences, offset=34)
    offset = 34 + lengths.nbytes
    pointers = np.frombuffer(index, np.int64, num_sequences, offset=offset)
    offset += pointers.nbytes
    boundaries = np.frombuffer(index, np.int64, num_boundaries, offset=offset)
    assert offset + boundaries.nbytes == len(index)
    tokens = (folder / "dataset.bin").read_bytes()
    assert sum(lengths) * dtype().itemsize == len(tokens)
    return [
        np.frombuffer(tokens, dtype, length, offset=pointer)
        for length, pointer in zip(lengths, pointers, strict=True)
    ], boundaries


def test_parquet_holds_the_original_columns_and_the_score(pool, tmp_path):
    export(pool, [0, 3, 6, 8], tmp_path / "out", format="parquet")
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["id", "text", "year", "source", "tags", "dsdm_score"]
    expected = [
        record | {"dsdm_score": pool.scores[candidate]}
        for record, candidate in zip(
            [
                BOOKS[0] | {"source": None, "tags": None},
                BOOKS[4] | {"source": None, "tags": None},
                BOOKS[7] | {"source": None, "tags": None},
                WEB[1] | {"year": None},
            ],
            [0, 3, 6, 8],
            strict=True,
        )
    ]
    assert table.to_pylist() == expected
    assert table.schema.metadata is None


def test_jsonl_holds_each_files_own_columns_and_the_score(pool, tmp_path):
    export(pool, [3, 8], tmp_path / "out", format="jsonl")
    assert read_jsonl(tmp_path / "out") == [
        BOOKS[4] | {"dsdm_score": pool.scores[3]},
        WEB[1] | {"dsdm_score": pool.scores[8]},
    ]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_an_export_of_everything_packs_to_the_same_examples(pool, tmp_path, format):
    everything = range(pool.examples.num_candidates)
    export(pool, everything, tmp_path / "out", format=format, shard_rows=5)
    again = load_pool(tmp_path / "out", tmp_path / "examples")
    texts = [
        [some.examples.text_of(i, some.tokenizer) for i in everything] for some in (pool, again)
    ]
    assert texts[0] == texts[1]
    ids = [
        [id for shard in some.examples.shards for id in some.examples.candidates_table(shard)["id"]]
        for some in (pool, again)
    ]
    assert ids[0] == ids[1]


def test_exporting_an_export_replaces_its_scores(pool, tmp_path):
    export(pool, range(12), tmp_path / "first", format="parquet")
    again = load_pool(tmp_path / "first", tmp_path / "examples")
    again.scores = np.arange(12.0)
    export(again, [2, 5], tmp_path / "second", format="parquet")
    table = pq.read_table(tmp_path / "second")
    assert table["dsdm_score"].to_pylist() == [2.0, 5.0]
    assert table.column_names.count("dsdm_score") == 1


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_rows_come_with_tokens_text_and_provenance(files, tmp_path, format):
    pool = load_pool(files, tmp_path / "examples", "row")
    chosen = [0, 1, pool.examples.num_candidates - 1]
    export(pool, chosen, tmp_path / "out", format=format)
    read = read_jsonl if format == "jsonl" else lambda path: pq.read_table(path).to_pylist()
    for record, candidate in zip(read(tmp_path / "out"), chosen, strict=True):
        tokens = pool.examples.row(candidate).tokens.tolist()
        assert record["tokens"] == tokens
        assert record["text"] == pool.tokenizer.decode(tokens)
        assert record["dsdm_score"] == pool.scores[candidate]
    assert (record["id"], record["source"]) == ("web-4", "blog")


def test_megatron_holds_the_tokens_of_each_candidate(any_pool, tmp_path):
    chosen = np.arange(0, any_pool.examples.num_candidates, 2)
    counts = export(any_pool, chosen, tmp_path / "out", format="megatron")
    sequences, boundaries = read_megatron(tmp_path / "out")
    assert boundaries.tolist() == list(range(len(chosen) + 1))
    for sequence, candidate in zip(sequences, chosen, strict=True):
        np.testing.assert_array_equal(sequence, any_pool.examples.tokens_of(int(candidate)))
    assert (counts.candidates, counts.tokens) == (len(chosen), sum(map(len, sequences)))


@pytest.mark.parametrize(("vocab_size", "code", "itemsize"), [(65_536, 8, 2), (65_537, 4, 4)])
def test_megatron_takes_two_bytes_a_token_where_they_are_enough(
    tmp_path, vocab_size, code, itemsize
):
    tokens = [np.array([0, vocab_size - 1], np.uint32), np.array([7], np.uint32)]
    write_megatron(iter(tokens), np.array([2, 1]), vocab_size, tmp_path)
    assert (tmp_path / "dataset.idx").read_bytes()[17] == code
    assert (tmp_path / "dataset.bin").stat().st_size == 3 * itemsize
    sequences, _ = read_megatron(tmp_path)
    assert [sequence.tolist() for sequence in sequences] == [[0, vocab_size - 1], [7]]


@given(
    st.lists(
        st.lists(st.integers(0, 300), min_size=1, max_size=20).map(np.array),
        min_size=1,
        max_size=9,
    )
)
def test_megatron_round_trip(tmp_path_factory, sequences):
    folder = tmp_path_factory.mktemp("megatron")
    write_megatron(iter(sequences), np.array([len(s) for s in sequences]), 301, folder)
    read, boundaries = read_megatron(folder)
    assert [s.tolist() for s in read] == [s.tolist() for s in sequences]
    assert len(boundaries) == len(sequences) + 1


@pytest.mark.skipif(importlib.util.find_spec("streaming") is None, reason="needs the mds extra")
@pytest.mark.filterwarnings("default")  # its dependencies warn at import
def test_mds_holds_the_tokens_of_each_candidate(any_pool, tmp_path):
    from streaming import StreamingDataset

    chosen = np.arange(0, any_pool.examples.num_candidates, 2)
    for name in ("out", "again"):
        export(any_pool, chosen, tmp_path / name, format="mds")
    same_bytes(tmp_path / "out", tmp_path / "again")
    dataset = StreamingDataset(local=str(tmp_path / "out"), shuffle=False, batch_size=1)
    assert len(dataset) == len(chosen)
    for sample, candidate in zip(dataset, chosen, strict=True):
        np.testing.assert_array_equal(sample["tokens"], any_pool.examples.tokens_of(int(candidate)))
        assert sample["dsdm_score"] == any_pool.scores[candidate]
        assert isinstance(sample["id"], str)


def test_mds_without_its_package_names_the_extra(pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(ConfigError, match=r"pip install 'dsdm\[mds\]'"):
        export(pool, [0], tmp_path / "out", format="mds")
    require_writer(ExportConfig(format="parquet"))


def same_bytes(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    _, mismatched, failed = filecmp.cmpfiles(one, other, names, shallow=False)
    assert not mismatched
    assert not failed


@pytest.mark.parametrize("format", ["parquet", "jsonl", "megatron"])
def test_the_same_export_writes_the_same_bytes(any_pool, tmp_path, format):
    for name in ("one", "other"):
        export(any_pool, [0, 1, 4, 8], tmp_path / name, format=format)
    same_bytes(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_file_holds_shard_rows_records(pool, tmp_path, format):
    export(pool, range(12), tmp_path / "out", format=format, shard_rows=5)
    names = [f"part-0000{i}.{format}" for i in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    if format == "parquet":
        sizes = [pq.read_metadata(tmp_path / "out" / name).num_rows for name in names]
    else:
        sizes = [len((tmp_path / "out" / name).read_text().splitlines()) for name in names]
    assert sizes == [5, 5, 2]


def test_small_batches_share_a_row_group(tmp_path):
    batches = [pa.record_batch({"x": [i]}) for i in range(50)]
    write_parquet(iter(batches), batches[0].schema, tmp_path, shard_rows=100)
    about = pq.read_metadata(tmp_path / "part-00000.parquet")
    assert (about.num_rows, about.num_row_groups) == (50, 1)


def test_numbers_of_different_types_are_written_as_the_wider(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    pq.write_table(
        pa.table({"text": ["one text"], "n": pa.array([1], "int32")}), folder / "a.parquet"
    )
    pq.write_table(pa.table({"text": ["two texts"], "n": [2.5]}), folder / "b.parquet")
    pool = load_pool(folder, tmp_path / "examples")
    export(pool, [0, 1], tmp_path / "out", format="parquet")
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == [1.0, 2.5]


def test_fields_that_only_some_files_have_are_null_elsewhere(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    one = {"text": "one text", "meta": {"a": 1, "deep": {"x": 1}}}
    two = {"text": "two texts", "meta": {"b": "c", "deep": {"y": 2.5}}}
    (folder / "one.jsonl").write_text(json.dumps(one))
    (folder / "two.jsonl").write_text(json.dumps(two))
    pool = load_pool(folder, tmp_path / "examples")
    export(pool, [0, 1], tmp_path / "out", format="parquet")
    assert pq.read_table(tmp_path / "out")["meta"].to_pylist() == [
        {"a": 1, "deep": {"x": 1, "y": None}, "b": None},
        {"a": None, "deep": {"x": None, "y": 2.5}, "b": "c"},
    ]


def test_columns_that_no_type_holds_are_an_error_that_names_the_file(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one text"], "n": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["two texts"], "n": ["two"]}), folder / "b.parquet")
    pool = load_pool(folder, tmp_path / "examples")
    with pytest.raises(DataError, match=r"b\.parquet: .*export with format jsonl"):
        export(pool, [0, 1], tmp_path / "out", format="parquet")
    export(pool, [0, 1], tmp_path / "lines", format="jsonl")
    assert [record["n"] for record in read_jsonl(tmp_path / "lines")] == [1, "two"]


def test_a_number_that_would_be_rounded_is_an_error(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one text"], "n": [2**60 + 1]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["two texts"], "n": [0.5]}), folder / "b.parquet")
    pool = load_pool(folder, tmp_path / "examples")
    with pytest.raises(DataError, match=r"a\.parquet: column `n` can't be written as double"):
        export(pool, [0, 1], tmp_path / "out", format="parquet")


def test_jsonl_holds_what_json_has_no_type_for(tmp_path):
    day = datetime.datetime(2024, 5, 17, 12, 30)
    batch = pa.record_batch({"day": [day], "raw": [b"\x00\xff"], "x": [float("nan")], "é": ["ü\n"]})
    write_jsonl(iter([batch]), tmp_path, shard_rows=10)
    assert read_jsonl(tmp_path) == [
        {"day": "2024-05-17T12:30:00", "raw": "AP8=", "x": None, "é": "ü\n"}
    ]


def test_text_that_is_not_utf_8_in_another_column_is_an_error(tmp_path):
    broken = pa.array([b"\xff"]).view(pa.string())
    with pytest.raises(DataError, match="export with format parquet"):
        write_jsonl(iter([pa.record_batch({"x": broken})]), tmp_path, shard_rows=10)


def test_an_empty_selection_is_an_error(pool, tmp_path):
    with pytest.raises(DataError, match="selection is empty"):
        export(pool, [], tmp_path / "out")


def test_an_unsorted_selection_is_misuse(pool, tmp_path):
    with pytest.raises(ValueError, match="sorted"):
        export(pool, [3, 1], tmp_path / "out")


@pytest.mark.parametrize("values", [{"format": "csv"}, {"shard_rows": 0}, {"rows": 5}])
def test_an_unknown_setting_is_an_error(values):
    with pytest.raises(ConfigError):
        parse_config(values, ExportConfig, "run.yaml")


def test_an_export_does_not_depend_on_where_the_pool_is_cut(tmp_path):
    """One file has a column of several types, which no piece of it may decide alone."""
    records = [{"text": f"text {i}", "n": i if i < 6 else str(i), "id": f"x{i}"} for i in range(12)]
    (tmp_path / "pool").mkdir()
    for name in ("a", "b"):
        lines = [json.dumps(record) for record in records]
        (tmp_path / "pool" / f"{name}.jsonl").write_text("\n".join(lines[name == "b" :]) + "\n")
    for format in ("parquet", "jsonl"):
        for piece_bytes in (40, 10_000):
            work = tmp_path / f"{format}{piece_bytes}"
            pool = load_pool(tmp_path / "pool", work / "examples", piece_bytes=piece_bytes)
            assert (len(pool.pieces) > 2) == (piece_bytes == 40)
            assert pool.examples.num_candidates == 12
            export(pool, [0, 3, 7, 11], work / "out", format=format)
        same_bytes(tmp_path / f"{format}40" / "out", tmp_path / f"{format}10000" / "out")
