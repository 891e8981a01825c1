"""Finished work on disk: folders that are complete or absent, each with a manifest.

A folder is written under a hidden name beside its place, its manifest last, and renamed. So a
process killed at any moment leaves either the whole folder or something that the next run ignores
and replaces. The hidden name is another one each time: a worker that was given up for dead and is
not can't put its hands on what its successor writes. A folder with a manifest is whole, under a
hidden name too. A manifest records what the work was made with, and size and digest of every file;
nothing is reused silently, and nothing that changed since it was written.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
from safetensors import SafetensorError

from dsdm.config import as_dict, differences, fingerprint
from dsdm.errors import ArtifactError

# Readers of Parquet folders pass over names that begin with an underscore.
MANIFEST = "_manifest.json"
COST = "_cost.json"

State = Literal["missing", "done", "stale"]


@dataclass(frozen=True)
class Manifest:
    """What an artifact was made with. Two runs of the same work write the same bytes."""

    config: Any
    inputs: dict[str, str]
    """Fingerprints of the artifacts and files that were read, by name."""
    counts: dict[str, Any]
    versions: dict[str, str]
    fingerprint: str
    """Identifies the content: a function of `config` and `inputs`."""
    files: dict[str, tuple[int, str]] | None = None
    """Bytes and SHA-256 of each file but the manifest and the cost, by its path in the folder; None
    where it was written before dsdm noted them."""


@dataclass
class Draft:
    """A folder that is being written; fill `counts` and `flops` before the block ends."""

    path: Path
    becomes: Path | None = None
    """Where it is put in the end; None: it stays."""
    fingerprint: str = ""
    """Identifies the content that it will have."""
    counts: dict[str, Any] = field(default_factory=dict)
    flops: float = 0.0
    seconds_before: float = 0.0
    """Seconds spent on this artifact by earlier, interrupted runs."""
    made_with: int = 1
    """Artifacts, this one included, that one pass makes: each has the cost of the whole pass."""

    @property
    def target(self) -> Path:
        """The folder's path once it is finished."""
        return self.becomes or self.path


@contextlib.contextmanager
def writing(path: Path, *, config: object, inputs: Mapping[str, str]) -> Iterator[Draft]:
    """A draft folder that becomes `path` when the block ends without an exception.

    Raises:
        ArtifactError: the disk is full or the folder can't be written.
    """
    draft_path = _new_draft(path)
    start = time.monotonic()
    with disk_errors(path):
        _remove_drafts(path)
        draft_path.mkdir(parents=True)
        draft = Draft(draft_path, path, artifact_fingerprint(config, inputs))
        yield draft
        seconds = time.monotonic() - start + draft.seconds_before
        cost = {"seconds": round(seconds, 3), "flops": draft.flops, "made_with": draft.made_with}
        write_checked(draft_path / COST, cost)
        manifest = {
            "config": as_dict(config),
            "inputs": dict(sorted(inputs.items())),
            "counts": draft.counts,
            "versions": _versions(),
            "fingerprint": draft.fingerprint,
            "files": _digests(draft_path),
        }
        write_checked(draft_path / MANIFEST, manifest)
        _replace(draft_path, path)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a failing disk into an ArtifactError that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: could not be written ({_cause(error, path)}). What was finished is kept: "
            "make room or correct the permissions, then run the same command again."
        ) from error


def _cause(error: Exception, path: Path) -> str:
    """What went wrong, and with which file where that is another one."""
    cause = getattr(error, "strerror", None) or str(error)
    file = getattr(error, "filename", None)
    is_other = file is not None and not str(file).startswith(str(path.parent))
    return f"{cause}: {file}" if is_other else cause


def artifact_fingerprint(config: object, inputs: Mapping[str, str]) -> str:
    """The fingerprint that an artifact with this config and these inputs has."""
    return fingerprint([as_dict(config), dict(inputs)])


def load_manifest(path: Path) -> Manifest | None:
    """The manifest in folder `path`, or None where no finished artifact is there."""
    try:
        found = load_checked(path / MANIFEST)
        unknown = set(found) - set(Manifest.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
        return msgspec.convert(found, Manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{path / MANIFEST}: is damaged ({error}). Delete {path}.") from error


def load_cost(path: Path) -> dict[str, float]:
    """Seconds and FLOPs that the artifact in `path` took, and how many were made in that pass."""
    try:
        cost = load_checked(path / COST)
        return {name: float(value) for name, value in ({"made_with": 1} | cost).items()}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path / COST}: is damaged ({error}). Delete {path}.") from error


def check_contents(path: Path) -> None:
    """Reads a finished artifact once, to see whether it holds what was written.

    Raises:
        ArtifactError: a file is gone, cut, changed, or can't be read.
    """
    manifest = load_manifest(path)
    if manifest is None:
        return
    load_cost(path)
    for name, (size, digest) in (manifest.files or {}).items():
        what = _damage(path, name, size, digest)
        if what:
            raise ArtifactError(
                f"{path / name}: {what}. Delete {path} and run the same command again: it is made "
                "anew, with the same bytes. If it happens again, look after the disk."
            )


def check_all_contents(folder: Path) -> None:
    """`check_contents` of every finished artifact at or below a folder."""
    for manifest in sorted(folder.rglob(MANIFEST)):
        parts = manifest.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts):
            check_contents(manifest.parent)


def _damage(folder: Path, name: str, size: int, digest: str) -> str | None:
    """What is wrong with a file of an artifact."""
    named = PurePosixPath(name)
    if named.is_absolute() or ".." in named.parts:
        return "is outside the artifact whose manifest names it"
    try:
        with open(folder / name, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                return f"is damaged: {found} bytes where {size} were written"
            is_same = hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"can't be read ({error.strerror or error})"
    return None if is_same else "is damaged: other bytes than were written"


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Bytes and digest of each file of a draft, all of them through to the disk by then."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != COST:
            with open(path, "rb") as file:
                # Here a full or failing disk speaks up, not after the rename.
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = (size, digest)
    return digests


def compare_manifest(
    path: Path, *, config: object, inputs: Mapping[str, str]
) -> tuple[State, list[str]]:
    """Whether `path` holds the artifact for this config and inputs, and if not, what changed."""
    manifest = load_manifest(path)
    if manifest is None:
        return "missing", []
    changes = differences(manifest.config, as_dict(config))
    for name in sorted({*manifest.inputs, *inputs}):
        if manifest.inputs.get(name) != inputs.get(name):
            changes.append(f"input {name} changed")
    return ("stale", changes) if changes else ("done", [])


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON that `load_checked` reads, with a digest of itself."""
    write_json(path, {**value, "digest": _json_digest(value)})


def load_checked(path: Path) -> dict[str, Any]:
    """What `write_checked` wrote; a file without a digest is taken as it is.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not what was written.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    digest = value.pop("digest", None)
    if digest is not None and digest != _json_digest(value):
        raise ValueError("its content is not what was written")
    return value


def _json_digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON, through to the disk, complete or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_whole(path, text.encode() + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file through to the disk, complete or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def restore(path: Path) -> None:
    """Puts back the folder that a process put aside before it was killed replacing it."""
    old = _aside(path)
    if not path.exists() and load_manifest(old) is not None:
        os.rename(old, path)


def _replace(draft: Path, path: Path) -> None:
    """Puts `draft` in the place of `path`; an old folder is gone only once the new one is whole."""
    old = _aside(path)
    for _ in range(10):
        _remove(old)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(draft, path)
            break
        except OSError:
            if not path.exists():
                restore(path)
            if not (path.exists() and draft.exists()):
                raise
            # Someone else who made the same put it there since; the bytes are the same.
    _remove(old)


def _new_draft(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.draft"


def _remove_drafts(path: Path) -> None:
    """Deletes what others left or still write of `path`: renamed first, so none can commit it."""
    if not path.parent.is_dir():
        return
    is_draft = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.draft").fullmatch
    for found in [entry for entry in path.parent.iterdir() if is_draft(entry.name)]:
        doomed = _new_draft(path)
        with contextlib.suppress(OSError):
            os.rename(found, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _remove(folder: Path) -> None:
    """Deletes a folder, its manifest first, so that what is left of it is not taken for whole."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("dsdm", "torch", "transformers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
