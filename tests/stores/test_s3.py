"""Pools, targets, datasets and a run's parts on S3, on a server that the tests start."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from dsdm.artifacts import check_contents, load_manifest, writing
from dsdm.data import stores
from dsdm.data.pool import PoolConfig
from dsdm.data.stores import upload_folder
from dsdm.errors import ArtifactError, DataError
from tests.data.pools import read_all, texts, write_jsonl, write_parquet
from tests.stores.s3_server import Proxy
from tests.tiny_runs import Dsdm, write_data, write_experiment

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

ROWS = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts(300))]
KEY, SECRET = "some-key", "very-hidden"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    moto = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(*moto.get_host_and_port())
    yield proxy
    proxy.close()
    moto.stop()


@pytest.fixture
def s3(server: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client, and its settings as a user's configuration has them."""
    settings = {"endpoint_url": server.url, "key": KEY, "secret": SECRET}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0.01)
    server.faults.clear()
    server.struck.clear()
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)
    system.mkdir("bucket")
    yield system
    server.faults.clear()


def finished_folder(folder: Path) -> Path:
    with writing(folder / "dataset", config={}, inputs={}) as draft:
        (draft.path / "part-0.bin").write_bytes(bytes(range(256)) * 4000)
        (draft.path / "more").mkdir()
        (draft.path / "more" / "part-1.txt").write_text("text")
    return folder / "dataset"


def put_pool(s3: Any, folder: Path) -> None:
    for name in ("a.parquet", "b.jsonl", "c.jsonl.gz"):
        path = folder / name
        if name == "a.parquet":
            write_parquet(path, {n: [row[n] for row in ROWS] for n in ROWS[0]})
        else:
            write_jsonl(path, ROWS)
        s3.put_file(str(path), f"bucket/pool/{name}")


@pytest.mark.parametrize("name", ["a.parquet", "b.jsonl", "c.jsonl.gz"])
def test_a_pool_is_read(s3: Any, tmp_path: Path, name: str) -> None:
    put_pool(s3, tmp_path)
    documents, rejected = read_all(PoolConfig(files=[f"s3://bucket/pool/{name}"]))
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert not rejected


@pytest.mark.parametrize("fault", ["throttle", "drop"])
@pytest.mark.parametrize("name", ["a.parquet", "b.jsonl"])
def test_reading_goes_on_after_throttling_and_dropped_connections(
    s3: Any, server: Proxy, tmp_path: Path, name: str, fault: str
) -> None:
    put_pool(s3, tmp_path)
    server.plan("GET", f"pool/{name}", fault, times=2)
    documents, _ = read_all(PoolConfig(files=[f"s3://bucket/pool/{name}"]))
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert server.struck == [fault] * 2


@pytest.mark.parametrize("fault", ["drop", "refuse"])
def test_a_store_that_never_answers_is_an_error_and_no_short_pool(
    s3: Any, server: Proxy, tmp_path: Path, fault: str
) -> None:
    put_pool(s3, tmp_path)
    server.plan("GET", "pool/b.jsonl", fault, times=50)
    with pytest.raises(DataError, match=r"b\.jsonl: cannot be read"):
        read_all(PoolConfig(files=["s3://bucket/pool/b.jsonl"]))


def test_a_copy_in_the_store_is_whole(s3: Any, tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    assert upload_folder(folder, "s3://bucket/out/dataset") == 4
    assert len(s3.find("bucket/out/dataset")) == 4
    s3.get("bucket/out/dataset", str(tmp_path / "back"), recursive=True)
    assert load_manifest(tmp_path / "back") == load_manifest(folder)
    check_contents(tmp_path / "back")


@pytest.mark.parametrize("fault", ["throttle", "drop"])
@pytest.mark.parametrize("part", ["part-0.bin", "_manifest.json"])
def test_an_upload_is_tried_again(
    s3: Any, server: Proxy, tmp_path: Path, part: str, fault: str
) -> None:
    server.plan("PUT", part, fault, times=3)
    upload_folder(finished_folder(tmp_path), "s3://bucket/out/dataset")
    assert server.struck == [fault] * 3
    s3.invalidate_cache()
    s3.get("bucket/out/dataset", str(tmp_path / "back"), recursive=True)
    check_contents(tmp_path / "back")


@pytest.mark.parametrize("part", ["part-1.txt", "_manifest.json"])
def test_an_upload_that_fails_leaves_no_manifest(
    s3: Any, server: Proxy, tmp_path: Path, part: str
) -> None:
    folder = finished_folder(tmp_path)
    upload_folder(folder, "s3://bucket/out/dataset")
    server.plan("PUT", part, "refuse", times=50)
    with pytest.raises(ArtifactError, match=r"out/dataset: .* could not be uploaded"):
        upload_folder(folder, "s3://bucket/out/dataset")
    s3.invalidate_cache()
    assert not s3.exists("bucket/out/dataset/_manifest.json")


def test_a_store_that_keeps_less_than_it_was_sent_is_noticed(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3.put_file

    def put_half(path: str, there: str) -> None:
        half = tmp_path / "half"
        half.write_bytes(Path(path).read_bytes()[:-1])
        put(str(half), there)

    monkeypatch.setattr(s3, "put_file", put_half)
    with pytest.raises(ArtifactError, match=r"the store holds \d+ bytes of \d+"):
        upload_folder(finished_folder(tmp_path), "s3://bucket/out/dataset")


def test_no_such_bucket_is_one_line_without_secrets(s3: Any, tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    with pytest.raises(ArtifactError, match="could not be uploaded") as caught:
        upload_folder(folder, "s3://no-such-bucket/x?secret=hidden")
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert not s3.exists("no-such-bucket")


def test_a_run_reads_from_the_store_and_shares_its_parts_there(
    s3: Any, tmp_path: Path, dsdm: Dsdm
) -> None:
    write_data(tmp_path)
    for path in (tmp_path / "pool").iterdir():
        s3.put_file(str(path), f"bucket/pool/{path.name}")
    s3.put_file(str(tmp_path / "target.jsonl"), "bucket/target.jsonl")
    experiment = write_experiment(
        tmp_path,
        pool={"files": ["s3://bucket/pool"]},
        targets=[{"name": "words", "file": "s3://bucket/target.jsonl"}],
        share={"to": "s3://bucket/shared", "parts": ["dataset", "scores", "tokenizer"]},
    )
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    s3.get("bucket/shared/dataset", str(tmp_path / "back"), recursive=True)
    check_contents(tmp_path / "back")
    assert pq.read_table(tmp_path / "back").num_rows > 0
    assert s3.exists("bucket/shared/scores/all/_manifest.json")
    assert s3.exists("bucket/shared/tokenizer/_manifest.json")
    _, out, _ = dsdm("status", experiment)
    assert "done     shared/dataset" in out
    assert not files_with(tmp_path / "run", SECRET)


def files_with(folder: Path, secret: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_no_secret_of_a_url_gets_into_the_run_folder_or_a_message(
    s3: Any, server: Proxy, tmp_path: Path, dsdm: Dsdm
) -> None:
    """Pool and target by URLs that hold a password and a signature."""
    write_data(tmp_path)
    for name in ("pool/a.jsonl", "pool/b.jsonl", "target.jsonl"):
        s3.put_file(str(tmp_path / name), f"bucket/{name}", ACL="public-read")
    start = server.url.replace("http://", f"http://me:{SECRET}@") + "/bucket"
    signed = f"?signature={SECRET}"
    experiment = write_experiment(
        tmp_path,
        pool={"files": [f"{start}/pool/{name}.jsonl{signed}" for name in "ab"], "format": "jsonl"},
        targets=[{"name": "words", "file": f"{start}/target.jsonl{signed}"}],
    )
    code, out, err = dsdm("run", experiment)
    assert code == 0, err
    assert SECRET not in out + err
    assert files_with(tmp_path / "run", SECRET) == []
    assert "http://***@127.0.0.1" in (tmp_path / "run" / "experiment.yaml").read_text()
    shutil.rmtree(tmp_path / "run" / "dataset")
    server.plan("GET", "pool/a.jsonl", "refuse", times=50)
    code, out, err = dsdm("run", experiment)
    assert code == 2
    assert "a.jsonl" in err
    assert SECRET not in out + err


def test_urls_that_differ_in_a_secret_alone_are_refused(s3: Any, server: Proxy) -> None:
    s3.pipe_file("bucket/x.jsonl", b"{}", ACL="public-read")
    files = [f"{server.url}/bucket/x.jsonl?signature={name}" for name in "ab"]
    with pytest.raises(DataError, match="differ only in what may be a secret"):
        read_all(PoolConfig(files=files, format="jsonl"))


def test_a_compressed_pool_file_in_a_store_is_read(tmp_path: Path) -> None:
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    fsspec.filesystem("memory").pipe_file("/z/x.jsonl.gz", content)
    documents, _ = read_all(PoolConfig(files=["memory://z/x.jsonl.gz"]))
    assert len(documents) == len(ROWS)
