"""What packing refuses, beyond what can't be read at all (test_bad_input.py)."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from dsdm.data.documents import PoolConfig
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import DataError
from tests.data.pools import pack, packed, texts, tiny_tokenizer, write_jsonl, write_parquet

TEXTS = texts(400)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def test_tokens_outside_the_vocabulary_are_rejected(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"tokens": [1, 2]}, {"tokens": [1, 300]}])
    config = PoolConfig(files=[str(path)], format="tokens")
    with pytest.raises(DataError, match=r"1 of 2 records .*outside the vocabulary"):
        pack(tmp_path / "examples", config, tokenizer)


def test_duplicate_ids_are_rejected_within_and_across_files(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    records = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS[:10])]
    write_jsonl(tmp_path / "a.jsonl", [*records[:5], {"id": "3", "text": "another"}])
    write_jsonl(tmp_path / "b.jsonl", [*records[5:], {"id": "4", "text": "one more"}])
    config = PoolConfig(files=[str(tmp_path / "*.jsonl")], max_rejected_share=0.2)
    packed(tmp_path / "examples", config, tokenizer)
    lines = (tmp_path / "examples" / "duplicates" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "file": str(tmp_path / f"{name}.jsonl"),
            "row": 5,
            "reason": "duplicate id",
            "excerpt": duplicate,
        }
        for name, duplicate in (("a", "3"), ("b", "4"))
    ]


def test_ids_that_begin_anew_in_each_file_are_said_to_be_no_ids(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    for name, chosen in (("a", TEXTS[:5]), ("b", TEXTS[5:10])):
        records = [{"id": str(i), "text": text} for i, text in enumerate(chosen)]
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    files = [str(tmp_path / "*.jsonl")]
    with pytest.raises(DataError, match=r"set `pool\.id: null`"):
        packed(tmp_path / "examples", PoolConfig(files=files), tokenizer)
    listed = tmp_path / "examples" / "rejected-duplicates.jsonl"
    assert len(listed.read_text().splitlines()) == 5
    examples = packed(tmp_path / "numbered", PoolConfig(files=files, id=None), tokenizer)
    assert examples.num_candidates == 10


def test_ids_that_were_made_up_are_never_duplicates(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for folder, chosen in (("x", TEXTS[:5]), ("y", TEXTS[5:10])):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "part.jsonl", [{"text": text} for text in chosen])
    config = PoolConfig(files=[str(tmp_path / "*" / "part.jsonl")])
    examples = packed(tmp_path / "examples", config, tokenizer)
    assert examples.num_candidates == 10


def test_too_many_rejected_records_stop_the_run_and_are_kept(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    lines = [{"text": text} for text in TEXTS[:97]]
    path = write_jsonl(tmp_path / "a.jsonl", [b"x", b"y", {"text": None}, *lines])
    examples = tmp_path / "examples"
    with pytest.raises(DataError) as caught:
        pack(examples, PoolConfig(files=[str(path)], max_rejected_share=0.02), tokenizer)
    found = str(caught.value)
    listed = examples / "rejected-00000.jsonl"
    for part in (str(path), "3 of 100", "2.00%", "2 not JSON", "1 null text", str(listed)):
        assert part in found
    assert len(listed.read_text().splitlines()) == 3
    assert not (examples / "00000").exists()
    (shard,) = pack(examples, PoolConfig(files=[str(path)], max_rejected_share=0.03), tokenizer)
    assert len((shard / "rejected.jsonl").read_text().splitlines()) == 3
    assert not listed.exists()


def test_the_rejected_share_counts_records_outside_the_sample(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": None}, *({"text": t} for t in TEXTS)])
    config = PoolConfig(files=[str(path)], sample=0.05)
    assert packed(tmp_path / "examples", config, tokenizer).num_candidates < 50


def test_a_pool_that_packs_to_nothing_is_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    with pytest.raises(DataError, match=r"no usable document: 1 piece.*rejected\.jsonl"):
        packed(tmp_path / "examples", PoolConfig(files=[str(path)]), tokenizer)
