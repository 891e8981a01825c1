"""What the pool is: its configuration and the list of its files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import fsspec
import msgspec

from dsdm.config import Config, none_of
from dsdm.data.files import COMPRESSIONS, Piece, PoolFile, pool_error, read_errors
from dsdm.data.formats import FORMATS, PIECE_BYTES, suffixes
from dsdm.errors import DataError, DsdmError

KINDS = ("auto", "dataset", "tokens", "conversations")
"""What `pool.format` may be beside the name of a format."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PoolConfig(Config, frozen=True):
    """The candidates to choose from."""

    files: list[str]
    """Paths, globs, folders and fsspec URLs (s3://...), or `hf:ID`, `hf:ID:SPLIT` or
    `hf:ID:CONFIG:SPLIT` for a data set of the Hugging Face hub."""
    format: str = "auto"
    """`auto` goes by the file's name; or the name of a format (`parquet`, `jsonl`, `text`, `arrow`,
    or one of your own). `dataset` is a folder of `datasets.save_to_disk`; `tokens` is a file of
    rows that are tokenized already; `conversations` is a file of chats, or of prompts with
    completions."""
    text: str = "text"
    """Column that holds the text."""
    tokens: str = "tokens"
    """Column that holds lists of token ids, where the format is `tokens`."""
    messages: str = "messages"
    """Column that holds a chat, where the format is `conversations`: a list of `role`, `content`.
    Every turn of the `assistant` is learned."""
    prompt: str = "prompt"
    """Column that holds what comes before the completion, where there is no chat."""
    completion: str = "completion"
    """Column that holds the text that is learned, where there is no chat."""
    id: str | None = "id"
    """Column that holds the id, unique over the whole pool; None: the file's name and row, as where
    there is no such column."""
    source: str | None = "source"
    """Column that names where a document is from; where there is none, the file's name up to its
    first dot, without its folders."""
    text_documents: Literal["file", "line"] = "file"
    """What one document of a plain text file is."""
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of the documents to read. Depends on a document's content alone."""
    sample_seed: int = 0
    """Another seed reads another sample."""
    max_document_bytes: Annotated[int, msgspec.Meta(ge=1)] = 100_000_000
    """A longer document or JSONL line is rejected."""
    max_rejected_share: Share = 0.01
    """A file with a larger share of unusable documents stops the run."""

    def __post_init__(self) -> None:
        if self.format not in KINDS and self.format not in FORMATS:
            raise ValueError(f"format {none_of(self.format, [*KINDS, *FORMATS])}")


def list_pool_files(config: PoolConfig, *, may_be_gone: bool = False) -> list[PoolFile]:
    """The files of the pool: in the order given, sorted within a folder or glob, each once.

    Args:
        config: Names them.
        may_be_gone: Files that are not there are passed over; the list may be empty.

    Raises:
        DataError: nothing is there, or a file's format can't be told from its name.
    """
    files: dict[str, PoolFile] = {}
    for pattern in config.files:
        found = list(_list_pattern(pattern, config, may_be_gone))
        if not found and not may_be_gone:
            raise pool_error(f"{pattern}: no file matches. Correct `pool.files`.")
        files.update({file.url: file for file in found if file.url not in files})
    for name, count in Counter(file.shown for file in files.values()).items():
        if count > 1:
            raise pool_error(
                f"{name}: names several files of the pool, whose URLs differ only in what may be a "
                "secret. Give them names of their own, or copy them here."
            )
    if not files and not may_be_gone:
        raise pool_error("The pool is empty: name at least one file in `pool.files`.")
    return list(files.values())


def list_pieces(
    files: Sequence[PoolFile], config: PoolConfig, piece_bytes: int = PIECE_BYTES
) -> list[Piece]:
    """The pieces of some files, in order.

    Raises:
        DataError: a file that must be looked into can't be read.
    """
    pieces: list[Piece] = []
    for file in files:
        with read_errors(file):
            pieces += FORMATS[file.format].cut(file, config, piece_bytes)
    return pieces


def _list_pattern(pattern: str, config: PoolConfig, may_be_gone: bool) -> Iterator[PoolFile]:
    if pattern.startswith("hf:"):
        yield from (pool_file(path, "arrow") for path in _download(pattern))
        return
    system, path = _file_system(pattern)
    try:
        paths = _glob(system, path) if any(c in path for c in "*?[") else [path]
        for found in paths:
            if not system.exists(found):
                if may_be_gone:
                    continue
                raise pool_error(f"{pattern}: no such file or folder. Correct `pool.files`.")
            yield from _list_path(system, str(found), config, may_be_gone)
    except DsdmError:
        raise
    except Exception as error:  # what the clients of object stores raise has no base
        raise _unreachable(pattern, "listed", error) from error


def _glob(system: Any, path: str) -> list[str]:
    """Sorted matches; hidden files are passed, as a shell does."""
    return [p for p in sorted(system.glob(path)) if not PurePosixPath(p).name.startswith(".")]


def _file_system(pattern: str) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise pool_error(f"{pattern}: no reader for this kind of address ({error}).") from error
    except Exception as error:  # the same: some clients log in at once
        raise _unreachable(pattern, "opened", error) from error
    return system, path


def _unreachable(pattern: str, done: str, error: Exception) -> DataError:
    return pool_error(
        f"{pattern}: cannot be {done} ({type(error).__name__}: {error}). Correct `pool.files`, or "
        "see to it that it can be reached from here."
    )


def _list_path(system: Any, path: str, config: PoolConfig, may_be_gone: bool) -> Iterator[PoolFile]:
    if not system.isdir(path):
        yield _describe(system, path, _format_of(path, config.format))
    elif system.exists(f"{path}/state.json"):
        yield from _list_dataset(system, path)
    elif system.exists(f"{path}/dataset_dict.json"):
        splits = [str(p) for p in sorted(system.ls(path, detail=False)) if system.isdir(p)]
        raise pool_error(f"{path}: holds several splits; name one of {', '.join(splits)}.")
    else:
        yield from _list_folder(system, path, config, may_be_gone)


def _list_dataset(system: Any, path: str) -> Iterator[PoolFile]:
    """The Arrow files of a folder that `datasets.save_to_disk` wrote, in its order."""
    try:
        state = msgspec.json.decode(system.cat_file(f"{path}/state.json"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise pool_error(f"{path}/state.json: is not what datasets writes ({error}).") from error
    for name in names:
        yield _describe(system, f"{path}/{name}", "arrow")


def _list_folder(
    system: Any, path: str, config: PoolConfig, may_be_empty: bool
) -> Iterator[PoolFile]:
    """The files below a folder that can be read; notes, licences and hidden files are passed."""
    known = suffixes()
    skipped = []
    num_found = 0
    for found in sorted(system.find(path)):
        parts = PurePosixPath(found).relative_to(PurePosixPath(path)).parts
        if any(part.startswith((".", "_")) for part in parts):
            continue
        if _suffix(found) not in known:
            skipped.append(parts[-1])
            continue
        num_found += 1
        yield _describe(system, found, _format_of(found, config.format))
    if not num_found and not may_be_empty:
        seen = f"it holds {', '.join(skipped[:3])}" if skipped else "it is empty"
        raise pool_error(f"{path}: no file of a known format in this folder; {seen}.")


def _format_of(path: str, format: str) -> str:
    """The name of the format that a file is read in, where the pool's is `format`."""
    if format == "dataset":
        return "arrow"
    if format in FORMATS:
        return format
    known = suffixes()
    by_name = known.get(_suffix(path))
    if by_name is None or (format != "auto" and not FORMATS[by_name].has_columns):
        raise pool_error(
            f"{path}: unknown format `{PurePosixPath(path).suffix}`. Known are "
            f"{', '.join(known)}, plain or with {', '.join(COMPRESSIONS)}; "
            "or say what it is with `pool.format`."
        )
    return by_name


def _suffix(path: str) -> str:
    pure = PurePosixPath(path)
    return (pure.with_suffix("") if pure.suffix.lower() in COMPRESSIONS else pure).suffix.lower()


def pool_file(url: str, format: str) -> PoolFile:
    """The pool file at `url`."""
    system, path = _file_system(url)
    return _describe(system, path, format)


def content_fingerprint(file: PoolFile, advance: Callable[[int], None]) -> str:
    """Identifies what a file holds: a hash of its bytes; in an object store, of its version.

    Args:
        file: The file.
        advance: Called with the number of bytes read.

    Raises:
        DataError: the file can't be read.
    """
    system, path = _file_system(file.url)
    digest = hashlib.sha256(file.shown.encode())
    if not _is_local(system):
        digest.update(file.version.encode())
        return digest.hexdigest()[:16]
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                advance(len(block))
    except OSError as error:
        raise pool_error(f"{path}: cannot be read ({error}).") from error
    return digest.hexdigest()[:16]


def _describe(system: Any, path: str, format: str) -> PoolFile:
    info = system.info(path)
    names = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    version = next((str(info[name]) for name in names if name in info), "")
    url = path if _is_local(system) else system.unstrip_protocol(path)
    return PoolFile(url, format, int(info["size"]), f"{info['size']}-{version}")


def _is_local(system: Any) -> bool:
    protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    return "file" in protocols


def _download(pattern: str) -> list[str]:
    """The Arrow files in the local cache that hold a data set of the hub."""
    import datasets

    name, *rest = pattern.removeprefix("hf:").split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        dataset = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise pool_error(f"{pattern}: cannot be loaded as a data set ({error}).") from error
    return [str(file["filename"]) for file in dataset.cache_files]
