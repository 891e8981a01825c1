"""One command at a time in a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsdm.artifacts import disk_errors
from dsdm.errors import ArtifactError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other commands out of it, until the block or the process ends.

    Blocks within one another are one. Where a file system knows no locks, none is kept.

    Raises:
        ArtifactError: another command is at work in the folder, or it can't be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ArtifactError(
            f"{folder}: another command is at work in this run, and two would overwrite each "
            "other's drafts. Wait for it or stop it; or give this one another `run` folder."
        ) from error
    except (OSError, NotImplementedError):
        pass  # a folder that is only to be read, or a file system without locks
    try:
        yield
    finally:
        lock.release()
