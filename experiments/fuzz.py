"""Feeds damaged and made-up inputs to the readers, the YAML and the manifests.

    python experiments/fuzz.py [--inputs 100000] [--seconds 600]

Ends at whichever comes first. A finding is an exception that is none of the project's own (those
end the command line with one message and exit code 2), a call over 10 seconds, a process over 1 GB
more than at its start, or one that dies. Inputs are Hypothesis's: structured ones, and valid files
with bytes changed, cut or repeated. The shrunk input of each finding is printed.
"""

import argparse
import gzip
import io
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from record import figure, write_figures

from dsdm.artifacts import MANIFEST, check_contents, load_cost, load_manifest, writing
from dsdm.data.documents import PoolConfig, list_pieces, list_pool_files, read_documents
from dsdm.data.target_files import read_jsonl_examples
from dsdm.errors import DsdmError
from dsdm.experiment import load_experiment

MOST_SECONDS = 10.0
MOST_BYTES = 1 << 30
ROUND = 500
"""Inputs of one target before the next one's turn."""

INPUT = "input"
"""File that holds the input that is read just now, should the process die of it."""

Check = Callable[[Path, bytes], None]


class SlowError(Exception):
    """A call took longer than MOST_SECONDS."""


class LargeError(Exception):
    """The process grew by more than MOST_BYTES."""


def main(arguments: list[str] | None = None) -> int:
    """Fuzzes and writes `fuzz.inputs` and `fuzz.tracebacks`; 1 where anything was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-figures", action="store_true", help="leave experiments/results alone")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), options.seed)
        fuzzer.fuzz(options.inputs, time.monotonic() + options.seconds)
    for name, found in fuzzer.findings.items():
        print(f"{name}\n{found}")
    print(f"{fuzzer.count} inputs, {len(fuzzer.findings)} findings")
    if not options.no_figures:
        rows = [
            figure("fuzz.inputs", fuzzer.count, "inputs"),
            figure("fuzz.tracebacks", len(fuzzer.findings), "targets with a finding"),
        ]
        write_figures("fuzz", rows)
    return 1 if fuzzer.findings else 0


class Fuzzer:
    """Turns of all targets, until there were enough inputs or a finding of each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.count = 0
        self.findings: dict[str, str] = {}
        self._memory = _peak_bytes()

    def fuzz(self, inputs: int, until: float) -> None:
        """Runs turn after turn."""
        turn = 0
        while TARGETS.keys() - self.findings.keys() and self._goes_on(inputs, until):
            for name, (strategy, check) in TARGETS.items():
                if name not in self.findings and self._goes_on(inputs, until):
                    self._turn(name, strategy, check, turn, until)
            turn += 1

    def _goes_on(self, inputs: int, until: float) -> bool:
        return self.count < inputs and time.monotonic() < until

    def _turn(
        self, name: str, strategy: st.SearchStrategy[bytes], check: Check, turn: int, until: float
    ) -> None:
        """In a process of its own, which may die."""
        report = self.folder / "turn.json"
        report.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            found = self._finding(strategy, check, turn, until)
            report.write_text(json.dumps([self.count, found]), encoding="utf-8")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if report.exists():
            self.count, found = json.loads(report.read_text(encoding="utf-8"))
        else:
            found = f"exit code {status} at {(self.folder / INPUT).read_bytes()!r}"
        if found:
            self.findings[name] = found

    def _finding(
        self, strategy: st.SearchStrategy[bytes], check: Check, turn: int, until: float
    ) -> str:
        """What was found in one turn, empty where it is nothing."""

        @settings(
            max_examples=ROUND,
            deadline=None,
            database=InMemoryExampleDatabase(),
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
        )
        @given(strategy)
        def run(content: bytes) -> None:
            if time.monotonic() < until:
                self.count += 1
                self._check(check, content)

        run._hypothesis_internal_use_seed = hash((self.seed, turn)) & 0xFFFF
        try:
            run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            return "".join(traceback.format_exception(error))
        return ""

    def _check(self, check: Check, content: bytes) -> None:
        (self.folder / INPUT).write_bytes(content)
        start = time.monotonic()
        try:
            check(self.folder, content)
        except DsdmError as error:
            if "\n" in str(error).strip() and "YAML" not in str(error):
                raise AssertionError(f"a message of several lines: {error}") from error
        seconds = time.monotonic() - start
        if seconds > MOST_SECONDS:
            raise SlowError(f"{seconds:.1f} s for {content[:200]!r}")
        if _peak_bytes() - self._memory > MOST_BYTES:
            self._memory = _peak_bytes()
            raise LargeError(f"for {content[:200]!r}")


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@st.composite
def damaged(draw: st.DrawFn, valid: tuple[bytes, ...]) -> bytes:
    """One of some valid files, with bytes changed, cut out or repeated."""
    content = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "flip", "cut", "repeat", "insert", "huge"]))
        if kind == "change" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 64))] * 3
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=16))
        else:
            content[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(content)


RECORDS = [{"id": f"d{i}", "source": "web", "text": f"some text {i} " * (i + 1)} for i in range(8)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = ("text", "id", "source", "tokens", "context", "continuation", "query", "choices", "gold")
RECORD = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)


def _jsonl(records: list[Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, **options)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _bomb() -> bytes:
    """50 MB of one line in 50 KB."""
    return gzip.compress(b"a" * 50_000_000, 9)


PARQUET = (_parquet(), _parquet(compression="zstd", use_dictionary=False, row_group_size=3))
LINES = _jsonl(RECORDS)
ZSTD = zstandard.ZstdCompressor().compress(LINES)
TARGET = _jsonl(
    [{"context": "a", "continuation": " b"}, {"query": "q", "choices": ["x"], "gold": 0}]
)
JSONL = st.lists(RECORD | JSON, max_size=5).map(_jsonl) | damaged((LINES,)) | st.binary(max_size=80)


def _read_pool(name: str, **options: Any) -> Check:
    def check(folder: Path, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        config = PoolConfig(files=[str(path)], max_document_bytes=1_000_000, **options)
        for piece in list_pieces(list_pool_files(config), config):
            for _ in read_documents(piece, config, reject=lambda rejected: None):
                pass

    return check


def _read_target(folder: Path, content: bytes) -> None:
    path = folder / "target.jsonl"
    path.write_bytes(content)
    for _ in read_jsonl_examples(str(path), " ", None):
        pass


def _read_yaml(folder: Path, content: bytes) -> None:
    path = folder / "experiment.yaml"
    path.write_bytes(content)
    load_experiment(path)


def _finished(folder: Path) -> Path:
    path = folder / "artifact"
    if not path.exists():
        with writing(path, config={"a": [1, {"b": None}]}, inputs={"x": "y"}) as draft:
            (draft.path / "data").write_bytes(b"content")
            draft.counts["n"] = 1
    return path


def _read_manifest(folder: Path, content: bytes) -> None:
    path = _finished(folder)
    (path / MANIFEST).write_bytes(content)
    load_manifest(path)
    check_contents(path)
    from dsdm.artifacts import compare_manifest

    compare_manifest(path, config={"a": 1}, inputs={})


def _read_cost(folder: Path, content: bytes) -> None:
    path = folder / "cost"
    path.mkdir(exist_ok=True)
    (path / "_cost.json").write_bytes(content)
    load_cost(path)


def _valid_manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (_finished(Path(folder)) / MANIFEST).read_bytes()


MANIFEST_FIELDS = st.sampled_from(
    ["config", "inputs", "counts", "versions", "fingerprint", "files", "digest"]
)
MANIFESTS = st.dictionaries(MANIFEST_FIELDS, JSON, max_size=7).map(msgspec.json.encode)
EXPERIMENT = b"""run: r
pool: {files: [a.jsonl], sample: 0.5}
targets: [{name: t, file: t.jsonl, split: [0.6, 0.2, 0.2]}]
model: {config: {model_type: gpt2, n_embd: 8}}
selection: {tokens: 1e6, source_cap: 0.2}
proxies: {count: 2, train: {lr: 1e-3, betas: [0.9, 0.95]}}
compare: {arms: [top, random@2], seeds: 2, heldout: [{name: h, text: "h/*.txt"}]}
"""
LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (n, n, n - 1, n - 1, n - 1) for n in range(98, 118)
)
YAML = (
    damaged((EXPERIMENT, EXPERIMENT, EXPERIMENT, LAUGHS))
    | JSON.map(lambda value: yaml.safe_dump(value).encode())
    | st.text(alphabet="&*!<>:-[]{},'\"|% \n\tabc01.", max_size=60).map(str.encode)
)
TARGETS: dict[str, tuple[st.SearchStrategy[bytes], Check]] = {
    "jsonl": (JSONL, _read_pool("pool.jsonl")),
    "tokens": (JSONL, _read_pool("tokens.jsonl", format="tokens")),
    "gzip": (damaged((gzip.compress(LINES),) * 40 + (_bomb(),)), _read_pool("pool.jsonl.gz")),
    "zstd": (damaged((ZSTD,)), _read_pool("pool.jsonl.zst")),
    "text": (st.binary(max_size=200), _read_pool("pool.txt", text_documents="line")),
    "parquet": (damaged(PARQUET), _read_pool("pool.parquet")),
    "arrow": (damaged((_arrow(),)), _read_pool("pool.arrow")),
    "target": (JSONL | damaged((TARGET,)), _read_target),
    "yaml": (YAML, _read_yaml),
    "manifest": (MANIFESTS | damaged((_valid_manifest(),)), _read_manifest),
    "cost": (MANIFESTS | st.binary(max_size=60), _read_cost),
}


if __name__ == "__main__":
    sys.exit(main())
