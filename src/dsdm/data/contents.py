"""What the files that an experiment names hold, so that one that was edited is noticed."""

import glob
import hashlib
from collections.abc import Iterable
from pathlib import Path


def contents_fingerprint(places: Iterable[str | None]) -> str:
    """Identifies the bytes of every file on this machine that paths, globs and folders name.

    Names of a hub or of lm-eval and URLs have no file here and count for nothing, nor does a file
    that can't be read: reading it says what is wrong.
    """
    digest = hashlib.sha256()
    for place in places:
        for path in _local_files(place):
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:
                continue
    return digest.hexdigest()[:16]


def _local_files(place: str | None) -> list[Path]:
    if place is None or "://" in place:
        return []
    paths = [Path(place)]
    if glob.has_magic(place):
        paths = [Path(found) for found in sorted(glob.glob(place, recursive=True))]
    files = [sorted(path.iterdir()) if path.is_dir() else [path] for path in paths]
    return [path for folder in files for path in folder if path.is_file()]
