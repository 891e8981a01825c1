"""What the files that an experiment names hold, so that one that was edited is noticed."""

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dsdm.errors import DataError

SMALL_BYTES = 16 << 20
END_BYTES = 1 << 20


def contents_fingerprint(places: Iterable[str | None]) -> str:
    """Identifies the bytes of every file on this machine that paths, globs and folders name.

    Names of a hub or of lm-eval and URLs have no file here and count for nothing.

    Raises:
        DataError: a file can't be read.
    """
    digest = hashlib.sha256()
    for place in places:
        for path in _local_files(place):
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror or error}). Correct its path or its "
                    "permissions, or see to the disk, then run the same command again."
                ) from error
    return digest.hexdigest()[:16]


def model_fingerprint(place: str) -> str:
    """Identifies the files of a model's folder without reading weights of many gigabytes whole.

    Small files count with all their bytes, large ones with their size, start and end.
    """
    digest = hashlib.sha256()
    for path in _local_files(place):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(SMALL_BYTES if size <= SMALL_BYTES else END_BYTES))
            if size > SMALL_BYTES:
                file.seek(-END_BYTES, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _local_files(place: str | None) -> list[Path]:
    if place is None or "://" in place:
        return []
    paths = [Path(place)]
    if glob.has_magic(place):
        paths = [Path(found) for found in sorted(glob.glob(place, recursive=True))]
    files = [sorted(path.iterdir()) if path.is_dir() else [path] for path in paths]
    return [path for folder in files for path in folder if path.is_file()]
