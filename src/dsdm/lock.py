"""One command at a time in a run folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsdm.artifacts import disk_errors
from dsdm.errors import ArtifactError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other commands out of it, until the block or the process ends.

    The lock is `flock`'s, which the system frees with the process. Where a file system or a system
    has none, and in a folder that is only to be read, nobody is kept out.

    Raises:
        ArtifactError: another command is at work in the folder, or it can't be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        _take(lock, folder)
        yield
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # another process has it
        raise ArtifactError(
            f"{folder}: another command is at work in this run, and two would overwrite each "
            "other's drafts. Wait for it or stop it; or give this one another `run` folder."
        ) from error
    except (ImportError, OSError):
        return
