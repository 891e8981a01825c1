"""Finished work on disk: folders that are complete or absent, each with a manifest.

A folder is written under a hidden name beside its place, its manifest last, and renamed. A process
that is killed at any moment leaves the whole folder, or a draft that the next run deletes. Each
draft has a name of its own, so that a worker that was given up for dead and still runs can't write
into its successor's. The manifest records what the folder was made with, and the size and digest of
every file.

A finished folder is hashed when it is first read on a machine after it was written elsewhere, and
when the size or time of a file changed since (`_checked.json` says which bytes were seen where).
`verify` hashes everything.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
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

# Readers of Parquet folders skip names that begin with an underscore.
MANIFEST = "_manifest.json"
COST = "_cost.json"
CHECKED = "_checked.json"
"""Sizes and times of the files whose bytes were right, and the machines that looked."""
PER_RUN = (COST, CHECKED)
"""Files that differ between two runs of the same work."""

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
    files: dict[str, tuple[int, str]]
    """Bytes and SHA-256 of each file, by its path in the folder, without those of PER_RUN."""


@dataclass(frozen=True)
class Cost:
    """What an artifact took to make."""

    seconds: float
    flops: float
    made_with: int = 1
    """Artifacts, this one included, that one call made: each has the cost of the whole call."""


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
        write_json(draft_path / COST, cost)
        files = _digests(draft_path)
        _note_checked(draft_path, files)
        manifest = {
            "config": as_dict(config),
            "inputs": dict(sorted(inputs.items())),
            "counts": draft.counts,
            "versions": _versions(),
            "fingerprint": draft.fingerprint,
            "files": files,
        }
        write_json(draft_path / MANIFEST, manifest)
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
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{path / MANIFEST}: is damaged ({error}). Delete {path}.") from error


def load_cost(path: Path) -> Cost:
    """What the artifact in `path` took to make."""
    try:
        return msgspec.json.decode((path / COST).read_bytes(), type=Cost)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{path / COST}: is damaged ({error}). Delete {path}.") from error


def check_contents(path: Path) -> None:
    """Looks whether a finished artifact holds what was written.

    Its files are hashed unless this machine has hashed them at their present sizes and times.

    Raises:
        ArtifactError: a file is gone, cut, changed, or can't be read.
    """
    manifest = load_manifest(path)
    if manifest is None:
        return
    load_cost(path)
    if manifest.fingerprint != fingerprint([manifest.config, manifest.inputs]):
        raise ArtifactError(
            f"{path / MANIFEST}: is damaged: its fingerprint is not that of its content. "
            f"Delete {path}."
        )
    with contextlib.suppress(OSError, ValueError):
        checked = json.loads((path / CHECKED).read_text(encoding="utf-8"))
        is_here = _machine() in checked["machines"]
        if is_here and checked["files"] == _sizes_and_times(path, manifest.files):
            return
    verify(path, manifest)
    # A folder that is only to be read is hashed each time.
    with contextlib.suppress(OSError):
        _note_checked(path, manifest.files)


def verify(path: Path, manifest: Manifest) -> None:
    """Hashes every file of a finished artifact.

    Raises:
        ArtifactError: a file is gone, cut, changed, or can't be read.
    """
    for name, (size, digest) in manifest.files.items():
        damage = _damage(path, name, size, digest)
        if damage:
            raise ArtifactError(
                f"{path / name}: {damage}. Delete {path} and run the same command again: it is "
                "made anew, with the same bytes. If it happens again, look after the disk."
            )


def finished(folder: Path) -> list[Path]:
    """Every finished artifact at or below a folder, sorted; drafts are hidden."""
    found = sorted(folder.rglob(MANIFEST))
    return [
        manifest.parent
        for manifest in found
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts)
    ]


def _sizes_and_times(path: Path, files: Mapping[str, Any]) -> dict[str, list[int]]:
    stats = {name: os.stat(path / name) for name in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _note_checked(path: Path, files: Mapping[str, Any]) -> None:
    """Writes down that this machine found the right bytes in the files as they are."""
    now, machines = _sizes_and_times(path, files), {_machine()}
    with contextlib.suppress(OSError, ValueError, KeyError):
        before = json.loads((path / CHECKED).read_text(encoding="utf-8"))
        machines |= set(before["machines"]) if before["files"] == now else set()
    write_json(path / CHECKED, {"files": now, "machines": sorted(machines)})


@functools.cache
def _machine() -> str:
    """Tells this machine from others that may read the same files."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or socket.gethostname()
    return socket.gethostname()


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
    """Bytes and digest of each file of a draft, which are written through to the disk."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in PER_RUN:
            with open(path, "rb") as file:
                # A full or failing disk raises here, before the rename.
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
