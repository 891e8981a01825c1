"""The pieces of a run's pool, which are fixed when the run begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsdm.artifacts import disk_errors, write_json
from dsdm.data.files import Piece, PoolFile
from dsdm.data.pool import PoolConfig, content_fingerprint, list_pieces, list_pool_files
from dsdm.errors import ArtifactError
from dsdm.progress import progress

POOL = "pool.json"
UNREAD = "unread"
"""Stands for the content of a file that was never read, where only states are asked for."""


class FrozenFile(msgspec.Struct, frozen=True):
    """One file of the pool as it was when the run began."""

    name: str
    """Its URL without secrets."""
    format: str
    size: int
    version: str
    """Size and time of change, or what the object store says."""
    content: str
    """Fingerprint of what the file holds: a file that is copied or touched is still the same."""
    pieces: tuple[tuple[int, int], ...]
    """Where each piece starts and ends."""


@dataclass(frozen=True)
class PoolPiece:
    """A piece of the pool, and where what is made of it stands."""

    piece: Piece
    content: str
    """Fingerprint of its file's content."""
    root: Path
    """Folder of the packed pool that it is part of."""
    folder: str
    """Name of the folder of what is made of it, in each stage's."""

    @property
    def examples(self) -> Path:
        """Where it is packed."""
        return self.root / "examples" / self.folder


@dataclass(frozen=True)
class Pool:
    """The run's pool."""

    files: tuple[FrozenFile, ...]
    pieces: tuple[PoolPiece, ...]
    gone: tuple[str, ...] = ()
    """Files of the pool that are not there any more."""
    later: tuple[str, ...] = ()
    """Files in `pool.files` that are not of this pool."""


def read_pool(config: PoolConfig, root: Path, *, reads_files: bool = True) -> Pool:
    """The pool of a run.

    Args:
        config: Names the files.
        root: Folder of the packed pool, which holds the list of files once the run has begun.
        reads_files: Whether a file that was never read, or whose version changed, is read for its
            fingerprint. What only asks for states need not.

    Raises:
        DataError: nothing is in the pool, or a file can't be read.
        ArtifactError: the list of files is damaged.
    """
    frozen = _load_frozen(root / "examples" / POOL)
    if frozen is None:
        found = list_pool_files(config)
        pieces = list_pieces(found, config)
        ranges: dict[str, list[tuple[int, int]]] = {file.shown: [] for file in found}
        for piece in pieces:
            ranges[piece.file.shown].append((piece.start, piece.end))
        contents = _contents(found, reads_files=reads_files)
        files = [
            FrozenFile(
                one.shown,
                one.format,
                one.size,
                one.version,
                contents[one.shown],
                tuple(ranges[one.shown]),
            )
            for one in found
        ]
        return Pool(tuple(files), tuple(_pieces(files, {f.shown: f for f in found}, root)))
    present = {file.shown: file for file in list_pool_files(config, may_be_gone=True)}
    names = {one.name for one in frozen}
    changed = [
        present[one.name]
        for one in frozen
        if one.name in present and present[one.name].version != one.version
    ]
    contents = _contents(changed, reads_files=True) if reads_files else {}
    files = [
        msgspec.structs.replace(
            one,
            content=contents.get(one.name, one.content),
            version=present[one.name].version if one.name in contents else one.version,
        )
        for one in frozen
    ]
    return Pool(
        tuple(files),
        tuple(_pieces(files, present, root)),
        gone=tuple(name for name in names if name not in present),
        later=tuple(name for name in present if name not in names),
    )


def freeze_pool(pool: Pool, root: Path) -> None:
    """Writes down which files and pieces the run's pool is made of."""
    path = root / "examples" / POOL
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, msgspec.to_builtins(pool.files))


def require_unchanged(pool: Pool, run: Path) -> None:
    """Raises ArtifactError where files came after the run began, which it does not read."""
    if not pool.later:
        return
    names = ", ".join(pool.later[:3]) + (" ..." if len(pool.later) > 3 else "")
    raise ArtifactError(
        f"{names}: {len(pool.later)} files in `pool.files` were not there when the run began. "
        f"Score them with `dsdm score {run} FILES --out DIR` and select from both tables; or leave "
        "them out of `pool.files`; or start over with --redo examples, or in another `run` folder."
    )


def _pieces(
    files: Sequence[FrozenFile], present: dict[str, PoolFile], root: Path
) -> list[PoolPiece]:
    pieces: list[PoolPiece] = []
    for one in files:
        # A file that is gone is an error where something reads it.
        file = present.get(one.name, PoolFile(one.name, one.format, one.size, one.version))
        for number, (start, end) in enumerate(one.pieces):
            is_last = number == len(one.pieces) - 1
            piece = Piece(file, number, start, end, is_last=is_last)
            pieces.append(PoolPiece(piece, one.content, root, f"{len(pieces):05d}"))
    return pieces


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
