"""Copies of finished folders in an object store, or any file system that fsspec knows, by URL."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from dsdm.artifacts import CHECKED, MANIFEST
from dsdm.config import without_secrets
from dsdm.errors import ArtifactError

TRIES = 4
"""Of each file, besides what the client of the store itself tries again."""
FIRST_WAIT_SECONDS = 0.5
"""Doubled after each try."""
BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"})
"""Protocols of stores that have no folders, and where making one could make a bucket."""


def upload_folder(
    folder: Path, url: str, advance: Callable[[int], None] = lambda num_bytes: None
) -> int:
    """Copies a finished folder to `url`; returns the number of files.

    The manifest goes last, and that of an older copy is deleted first: a folder with a manifest is
    whole there too. Throttling and dropped connections are tried again.

    Raises:
        ArtifactError: the store can't be reached, refuses, or does not hold what was sent.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKED)
    files.sort(key=lambda path: path.name == MANIFEST)
    try:
        system, root = fsspec.core.url_to_fs(url)
        _try_again(partial(_delete, system, f"{root}/{MANIFEST}"))
        for path in files:
            there = f"{root}/{path.relative_to(folder).as_posix()}"
            _try_again(partial(_put, system, path, there))
            advance(path.stat().st_size)
    except Exception as error:  # what the clients of object stores raise has no base
        raise ArtifactError(
            f"{without_secrets(url)}: {folder} could not be uploaded there "
            f"({_in_one_line(error)}). See to it that it can be reached and written from here, "
            "then run the same command again."
        ) from error
    return len(files)


def _try_again(do: Callable[[], None]) -> None:
    """Until it works; what no further try would mend is raised at once."""
    for number in range(TRIES):
        try:
            do()
            return
        except (FileNotFoundError, PermissionError, ImportError, ValueError):
            raise
        except Exception:  # the same: no base
            if number == TRIES - 1:
                raise
            time.sleep(FIRST_WAIT_SECONDS * 2**number)


def _put(system: Any, path: Path, there: str) -> None:
    protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    if not BUCKETS.intersection(protocols):
        system.makedirs(there.rpartition("/")[0], exist_ok=True)
    system.put_file(str(path), there)
    system.invalidate_cache()
    found, sent = system.info(there)["size"], path.stat().st_size
    if found != sent:
        raise OSError(f"{there}: the store holds {found} bytes of {sent}")


def _delete(system: Any, path: str) -> None:
    system.invalidate_cache()
    if system.exists(path):
        system.rm_file(path)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return without_secrets(f"{type(error).__name__}: {text}")
