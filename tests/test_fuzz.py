"""Inputs that no one would write: a short fuzz run, and what longer ones found."""

import faulthandler
import gzip
import os
import signal
import tracemalloc
from pathlib import Path

import fuzz
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from dsdm.config import Config, load_config
from dsdm.data.documents import PoolConfig
from dsdm.data.target_files import read_jsonl_examples
from dsdm.errors import ConfigError, DataError
from tests.data.pools import read_all, texts, write_parquet


def test_damaged_inputs_end_with_the_projects_own_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fuzz.main(["--seconds", "10", "--no-figures"]) == 0, capsys.readouterr().out
    assert " 0 findings" in capsys.readouterr().out


def test_the_fuzzer_finds_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_on_long(folder: Path, content: bytes) -> None:
        if len(content) > 3:
            raise KeyError("found")

    targets = {"broken": (st.binary(max_size=9), fail_on_long)}
    monkeypatch.setattr(fuzz, "TARGETS", targets)
    assert fuzz.main(["--inputs", "500", "--no-figures"]) == 1
    assert "KeyError: 'found'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        "a: " + "[" * 3000,
        "a: !!bool neither",
        "a: !!int ''",
        "a: &a [*a]",
        "{[1]: 2}",
    ],
    ids=["deep", "bool", "int", "cycle", "key"],
)
def test_yaml_that_the_library_chokes_on_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.yaml: "):
        load_config(tmp_path / "a.yaml", Config)


def test_yaml_references_that_multiply_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(fuzz.LAUGHS)
    with pytest.raises(ConfigError, match=r"more than 100,000 values"):
        load_config(tmp_path / "a.yaml", Config)


def test_an_override_is_read_as_carefully(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"--x .*is not a YAML value"):
        load_config(tmp_path / "a.yaml", Config, [("x", "!!bool neither")])


def test_an_arrow_file_that_claims_a_huge_message_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "pool.arrow"
    table = pa.table({"text": texts(5)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(path.read_bytes())
    content[4:8] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pool\.arrow: cannot be read"):
        read_all(PoolConfig(files=[str(path)]))


def test_a_message_about_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "pool.parquet", {"text": texts(5)})
    content = bytearray(path.read_bytes())
    content[-40:-8] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_all(PoolConfig(files=[str(path)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text_documents", ["file", "line"])
def test_a_small_file_that_unpacks_to_much_takes_little_memory(
    tmp_path: Path, text_documents: str
) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 200_000_000, 9))
    limits = {"max_document_bytes": 1_000_000, "text_documents": text_documents}
    tracemalloc.start()
    documents, rejected = read_all(PoolConfig(files=[str(path)], **limits))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (documents, len(rejected)) == ([], 1)
    assert peak < 20_000_000


def test_a_target_that_unpacks_to_one_long_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"a" * 50_000_000, 9))
    with pytest.raises(DataError, match=r"bomb\.jsonl\.gz:1: is longer than 10,000,000 bytes"):
        list(read_jsonl_examples(str(path), " ", None))


def test_names_with_line_ends_make_no_message_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('"a\\nb": 1\n')
    with pytest.raises(ConfigError, match=r"unknown field `a b`") as refused:
        load_config(tmp_path / "a.yaml", Config)
    (tmp_path / "a.jsonl").write_text('{"c\\nd": 1}\n')
    with pytest.raises(DataError, match=r"it has `c d`\.") as missing:
        read_all(PoolConfig(files=[str(tmp_path / "a.jsonl")]))
    assert "\n" not in str(refused.value) + str(missing.value)


def test_arrow_data_that_points_outside_of_its_file_is_an_error(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 3, 1 << 20, 6], np.int32).tobytes())
    values = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abcdef"))
    table = pa.table({"text": values})
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    with pytest.raises(DataError, match=r"a\.arrow: cannot be read"):
        read_all(PoolConfig(files=[str(tmp_path / "a.arrow")]))


def test_a_process_that_dies_of_an_input_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(folder: Path, content: bytes) -> None:
        faulthandler.disable()  # pytest's, which would print where
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(fuzz, "TARGETS", {"deadly": (st.just(b"poison"), die)})
    assert fuzz.main(["--inputs", "5", "--no-figures"]) == 1
    assert "exit code -11 at b'poison'" in capsys.readouterr().out
