"""The files of a run's pool, which are fixed when the run begins."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsdm.artifacts import disk_errors, write_json
from dsdm.data.pool import PoolConfig, PoolFile, content_fingerprint, list_pool_files
from dsdm.errors import ArtifactError, DataError
from dsdm.progress import progress

POOL = "pool.json"
UNREAD = "unread"
"""Stands for the content of a file that was never read, where only states are asked for."""


class FrozenFile(msgspec.Struct, frozen=True):
    """One file of the pool as it was when the run began."""

    name: str
    """Its URL without secrets."""
    format: str
    version: str
    """Size and time of change, or what the object store says."""
    content: str
    """Fingerprint of what the file holds: a file that is copied or touched is still the same."""


@dataclass(frozen=True)
class PoolShard:
    """A pool file and the number of the shard that is made of it."""

    number: int
    name: str
    """The file's URL without secrets."""
    found: PoolFile | None
    """The file; None where it is gone."""
    content: str

    @property
    def folder(self) -> str:
        """Folder name of the shard."""
        return f"{self.number:05d}"

    @property
    def file(self) -> PoolFile:
        """The file itself, for who reads it.

        Raises:
            ArtifactError: it is gone.
        """
        if self.found is None:
            raise ArtifactError(
                f"{self.name}: is part of the pool that this run began with, is still needed, and "
                "is gone. Put it back, or start over with --redo examples."
            )
        return self.found


@dataclass(frozen=True)
class Pool:
    """The run's files, in order, and those that came to `pool.files` later."""

    shards: tuple[PoolShard, ...]
    later: tuple[str, ...] = ()

    def require_unchanged(self, run: Path) -> None:
        """Raises ArtifactError where files came later, which a run does not read."""
        if self.later:
            names = ", ".join(self.later[:3]) + (" ..." if len(self.later) > 3 else "")
            raise ArtifactError(
                f"{names}: {len(self.later)} files in `pool.files` were not there when the run "
                f"began. Score them with `dsdm score {run} FILES --out DIR` and select from both "
                "tables; or leave them out of `pool.files`; or start over with --redo examples, or "
                "in another `run` folder."
            )


def read_pool(config: PoolConfig, folder: Path, *, reads_files: bool = True) -> Pool:
    """The pool of a run.

    Args:
        config: Names the files.
        folder: Of the packed pool, which holds the list of files once the run has begun.
        reads_files: Whether a file that was never read, or whose version changed, is read for its
            fingerprint. What only asks for states need not.

    Raises:
        DataError: nothing is in the pool, or a file can't be read.
        ArtifactError: the list of files is damaged.
    """
    frozen = _load_frozen(folder / POOL)
    if frozen is None:
        files = list_pool_files(config)
        contents = _contents(files, reads_files=reads_files)
        return Pool(
            tuple(
                PoolShard(number, file.shown, file, contents[file.shown])
                for number, file in enumerate(files)
            )
        )
    found = {file.shown: file for file in _list_present(config)}
    known = {one.name: one.content for one in frozen}
    changed = [
        found[one.name]
        for one in frozen
        if one.name in found and found[one.name].version != one.version
    ]
    contents = known | (_contents(changed, reads_files=True) if reads_files else {})
    shards = (
        PoolShard(number, one.name, found.get(one.name), contents[one.name])
        for number, one in enumerate(frozen)
    )
    return Pool(tuple(shards), tuple(name for name in found if name not in known))


def freeze_pool(pool: Pool, folder: Path) -> None:
    """Writes down which files the run's pool is made of."""
    path = folder / POOL
    before = {one.name: one for one in _load_frozen(path) or ()}
    files = [
        FrozenFile(shard.name, shard.found.format, shard.found.version, shard.content)
        if shard.found is not None
        else before[shard.name]
        for shard in pool.shards
    ]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, msgspec.to_builtins(files))


def _list_present(config: PoolConfig) -> list[PoolFile]:
    """The files that `pool.files` names now; an entry whose files are all gone names none."""
    present: dict[str, PoolFile] = {}
    for pattern in config.files:
        with contextlib.suppress(DataError):
            one: PoolConfig = msgspec.structs.replace(config, files=[pattern])
            present |= {file.shown: file for file in list_pool_files(one)}
    return list(present.values())


def _contents(files: Sequence[PoolFile], *, reads_files: bool) -> dict[str, str]:
    """Content fingerprint of each file, by name."""
    if not reads_files:
        return {file.shown: UNREAD for file in files}
    if not files:
        return {}
    with progress("reading the pool", sum(file.size for file in files), "bytes") as advance:
        return {file.shown: content_fingerprint(file, advance) for file in files}


def _load_frozen(path: Path) -> list[FrozenFile] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[FrozenFile])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ArtifactError(
            f"{path}: is not what dsdm wrote ({error}). Put it back, or start over with --redo "
            "examples."
        ) from error
