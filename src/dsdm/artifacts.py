"""Finished work on disk: folders that are complete or absent, each with a manifest.

A folder is written under a hidden name beside its place, its manifest last, and renamed. So a
process killed at any moment leaves either the whole folder or something that the next run ignores
and replaces. A folder with a manifest is whole, under a hidden name too. A manifest records what
the work was made with; nothing is reused silently.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

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


@dataclass
class Draft:
    """A folder that is being written; fill `counts` and `flops` before the block ends."""

    path: Path
    fingerprint: str = ""
    """Identifies the content that it will have."""
    counts: dict[str, Any] = field(default_factory=dict)
    flops: float = 0.0
    seconds_before: float = 0.0
    """Seconds spent on this artifact by earlier, interrupted runs."""
    made_with: int = 1
    """Artifacts, this one included, that one pass makes: each has the cost of the whole pass."""


@contextlib.contextmanager
def writing(path: Path, *, config: object, inputs: Mapping[str, str]) -> Iterator[Draft]:
    """A draft folder that becomes `path` when the block ends without an exception.

    Raises:
        ArtifactError: the disk is full or the folder can't be written.
    """
    draft_path = path.parent / f".{path.name}.draft"
    start = time.monotonic()
    with disk_errors(path):
        shutil.rmtree(draft_path, ignore_errors=True)
        draft_path.mkdir(parents=True)
        draft = Draft(draft_path, artifact_fingerprint(config, inputs))
        yield draft
        seconds = time.monotonic() - start + draft.seconds_before
        cost = {"seconds": round(seconds, 3), "flops": draft.flops, "made_with": draft.made_with}
        write_json(draft_path / COST, cost)
        manifest = {
            "config": as_dict(config),
            "inputs": dict(sorted(inputs.items())),
            "counts": draft.counts,
            "versions": _versions(),
            "fingerprint": draft.fingerprint,
        }
        write_json(draft_path / MANIFEST, manifest)
        _replace(draft_path, path)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a failing disk into an ArtifactError that names the path."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path}: could not be written ({error.strerror or error}). What was finished is kept: "
            "make room or correct the permissions, then run the same command again."
        ) from error


def artifact_fingerprint(config: object, inputs: Mapping[str, str]) -> str:
    """The fingerprint that an artifact with this config and these inputs has."""
    return fingerprint([as_dict(config), dict(inputs)])


def load_manifest(path: Path) -> Manifest | None:
    """The manifest in folder `path`, or None where no finished artifact is there."""
    try:
        return Manifest(**json.loads((path / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path / MANIFEST}: is damaged ({error}). Delete {path}.") from error


def load_cost(path: Path) -> dict[str, float]:
    """Seconds and FLOPs that the artifact in `path` took, and how many were made in that pass."""
    cost: dict[str, float] = json.loads((path / COST).read_text(encoding="utf-8"))
    return {name: float(value) for name, value in ({"made_with": 1} | cost).items()}


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
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
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
    _remove(old)
    if path.exists():
        os.rename(path, old)
    os.rename(draft, path)
    _remove(old)


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
