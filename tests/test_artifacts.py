"""Finished work on disk is whole or absent, and says what it was made with."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from dsdm import artifacts
from dsdm.artifacts import (
    MANIFEST,
    PER_RUN,
    check_contents,
    compare_manifest,
    load_cost,
    load_manifest,
    restore,
    write_json,
    writing,
)
from dsdm.errors import ArtifactError


def make(path: Path, config: object = 1, content: str = "content") -> None:
    with writing(path, config=config, inputs={"in": "abc"}) as draft:
        (draft.path / "data.txt").write_text(content)
        draft.counts["lines"] = 1
        draft.flops = 2.0


def test_a_finished_artifact_has_its_content_manifest_and_cost(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b", config={"x": 1})
    manifest = load_manifest(tmp_path / "a" / "b")
    assert manifest is not None
    assert (manifest.config, manifest.inputs) == ({"x": 1}, {"in": "abc"})
    assert manifest.counts == {"lines": 1}
    assert load_cost(tmp_path / "a" / "b").flops == 2.0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_the_same_work_writes_the_same_bytes(tmp_path: Path) -> None:
    def content(name: str) -> dict[str, bytes]:
        make(tmp_path / name)
        files = [path for path in (tmp_path / name).iterdir() if path.name not in PER_RUN]
        return {path.name: path.read_bytes() for path in files}

    assert content("a") == content("b")


def test_work_that_fails_leaves_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a", config=1, inputs={}):
        _ = 1 / 0
    assert load_manifest(tmp_path / "a") is None
    assert not (tmp_path / "a").exists()


def test_work_that_fails_leaves_the_old_artifact(tmp_path: Path) -> None:
    make(tmp_path / "a", content="old")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a", config=2, inputs={}):
        _ = 1 / 0
    assert (tmp_path / "a" / "data.txt").read_text() == "old"


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    for name in (".a.draft", ".a.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rubbish").touch()
    make(tmp_path / "a")
    make(tmp_path / "a", content="new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "_checked.json",
        "_cost.json",
        "_manifest.json",
        "data.txt",
    ]


class KilledError(BaseException):
    """Stands for the end of the process."""


def kill_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process ends before it renames for the `number`-th time from now on."""
    renames = iter(range(1, number))
    rename = os.rename

    def counted(old: Path, new: Path) -> None:
        if next(renames, None) is None:
            raise KilledError
        rename(old, new)

    monkeypatch.setattr(artifacts.os, "rename", counted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_while_an_artifact_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    make(tmp_path / "a", content="old")
    kill_at_rename(monkeypatch, number)
    with pytest.raises(KilledError):
        make(tmp_path / "a", content="new")
    monkeypatch.undo()
    restore(tmp_path / "a")
    assert (tmp_path / "a" / "data.txt").read_text() == "old"
    assert load_manifest(tmp_path / "a") is not None


def test_half_of_an_old_artifact_is_not_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a", content="old")
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.shutil, "rmtree", lambda path, **options: None)
        make(tmp_path / "a", content="new")
    assert (tmp_path / ".a.old" / "data.txt").exists()
    shutil.rmtree(tmp_path / "a")
    restore(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_artifact_is_missing_done_or_stale(tmp_path: Path) -> None:
    def state(config: object, **inputs: str) -> tuple[str, list[str]]:
        return compare_manifest(tmp_path / "a", config=config, inputs=inputs)

    assert state({"x": 1}) == ("missing", [])
    with writing(tmp_path / "a", config={"x": 1}, inputs={"pool": "p"}):
        pass
    assert state({"x": 1}, pool="p") == ("done", [])
    assert state({"x": 2}, pool="p") == ("stale", ["x: 1 -> 2"])
    assert state({"x": 1}, pool="q") == ("stale", ["input pool changed"])
    assert state({"x": 1}, pool="p", more="m") == ("stale", ["input more changed"])


@pytest.mark.parametrize("content", ["{", "[]", '{"config": 1}', "\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "_manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"a/_manifest\.json: is damaged .* Delete "):
        load_manifest(tmp_path / "a")


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": "ä"})
    monkeypatch.setattr(os, "replace", lambda *paths: fail())
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"b": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}


def fail(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["mkdir", "fsync", "rename"])
def test_a_full_disk_is_an_error_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(artifacts.os, step, fail)
    with pytest.raises(ArtifactError, match=r"No space left on device.*the same command again"):
        make(tmp_path / "a")
    assert load_manifest(tmp_path / "a") is None


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/a: could not be written \(Not a directory\)"):
        make(tmp_path / "file" / "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_that_the_system_refuses_keeps_what_was_finished(tmp_path: Path) -> None:
    make(tmp_path / "a", content="old")
    refused = pytest.raises(ArtifactError, match=r"/a: could not be written \(No space left")
    with refused, writing(tmp_path / "a", config=1, inputs={}) as draft:
        (draft.path / "data.txt").symlink_to("/dev/full")
        (draft.path / "data.txt").write_text("new")
    assert (tmp_path / "a" / "data.txt").read_text() == "old"


def make_two_files(path: Path) -> None:
    with writing(path, config={"x": 1}, inputs={}) as draft:
        (draft.path / "more").mkdir()
        (draft.path / "data.bin").write_bytes(bytes(range(200)))
        (draft.path / "more" / "text.txt").write_text("text")


def test_a_manifest_names_size_and_digest_of_every_file(tmp_path: Path) -> None:
    make_two_files(tmp_path / "a")
    manifest = load_manifest(tmp_path / "a")
    assert manifest is not None
    digest = hashlib.sha256(b"text").hexdigest()
    assert manifest.files["more/text.txt"] == (4, digest)
    assert sorted(manifest.files) == ["data.bin", "more/text.txt"]
    check_contents(tmp_path / "a")


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path: Path) -> None:
    make_two_files(tmp_path / "a")
    file = tmp_path / "a" / "data.bin"
    for bit in range(0, 8 * file.stat().st_size, 7):
        flip(file, bit)
        with pytest.raises(ArtifactError, match=r"a/data\.bin: is damaged: other bytes"):
            check_contents(tmp_path / "a")
        flip(file, bit)


def test_a_manifest_of_other_settings_than_it_was_written_with_is_noticed(tmp_path: Path) -> None:
    make_two_files(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    write_json(tmp_path / "a" / MANIFEST, manifest | {"config": {"x": 3}})
    with pytest.raises(ArtifactError, match=r"a/_manifest\.json: is damaged"):
        check_contents(tmp_path / "a")


def test_a_file_is_hashed_once_while_its_size_and_time_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_two_files(tmp_path / "a")
    hashed: list[str] = []
    damage = artifacts._damage

    def count(folder: Path, name: str, size: int, digest: str) -> str | None:
        hashed.append(name)
        return damage(folder, name, size, digest)

    monkeypatch.setattr(artifacts, "_damage", count)
    check_contents(tmp_path / "a")
    assert hashed == []
    os.utime(tmp_path / "a" / "data.bin")
    check_contents(tmp_path / "a")
    assert sorted(hashed) == ["data.bin", "more/text.txt"]
    check_contents(tmp_path / "a")
    assert len(hashed) == 2


def test_a_copy_on_another_machine_is_hashed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_two_files(tmp_path / "a")
    file = tmp_path / "a" / "data.bin"
    times = file.stat()
    flip(file, 9)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    check_contents(tmp_path / "a")  # nothing says that it changed
    monkeypatch.setattr(artifacts, "_machine", lambda: "another")
    with pytest.raises(ArtifactError, match=r"a/data\.bin: is damaged: other bytes"):
        check_contents(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "what"), [(b"cut", "3 bytes where 200 were written"), (None, "is gone")]
)
def test_a_cut_or_missing_file_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    make_two_files(tmp_path / "a")
    file = tmp_path / "a" / "data.bin"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"a/data\.bin: .*{what}"):
        check_contents(tmp_path / "a")


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    make_two_files(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    for name in ("../secret", "/etc/hostname"):
        write_json(tmp_path / "a" / MANIFEST, manifest | {"files": {name: [1, "0"]}})
        with pytest.raises(ArtifactError, match="is outside the artifact"):
            check_contents(tmp_path / "a")


def test_a_worker_given_up_for_dead_cannot_commit(tmp_path: Path) -> None:
    late = writing(tmp_path / "a", config=1, inputs={})
    draft = late.__enter__()
    (draft.path / "data.txt").write_text("half of")
    make(tmp_path / "a", content="whole")
    with pytest.raises(ArtifactError, match="could not be written"):
        late.__exit__(None, None, None)
    assert (tmp_path / "a" / "data.txt").read_text() == "whole"
    check_contents(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_draft_of_another_artifact_is_left_alone(tmp_path: Path) -> None:
    with writing(tmp_path / "a.b", config=1, inputs={}) as draft:
        make(tmp_path / "a")
        (draft.path / "data.txt").write_text("still there")
    assert (tmp_path / "a.b" / "data.txt").exists()
