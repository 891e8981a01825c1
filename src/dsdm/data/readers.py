"""Streams of records from the files of a pool, one format at a time; memory does not grow."""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.data.pool import PoolConfig, PoolFile, pool_error
from dsdm.errors import DataError, DsdmError

BATCH_BYTES = 4 << 20
BUFFER_BYTES = 1 << 20
EXCERPT = 80

Numbered = TypeVar("Numbered", bound=tuple[int, *tuple[Any, ...]])
"""Anything that starts with the row it is from."""


@dataclass(frozen=True)
class Unreadable:
    """A record that can't be used, and why."""

    reason: str
    excerpt: str


Fields = dict[str, Any]
"""A record's values by column; text that was not checked to be UTF-8 yet is bytes."""


def read_records(
    file: PoolFile, config: PoolConfig, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, Fields | Unreadable]]:
    """Each record of `file` with its row: the columns asked for, or why it can't be read.

    Raises:
        DataError: a required column is missing, or the file is damaged or can't be opened.
    """
    if file.format in ("jsonl", "text"):
        return _with_fields(file, read_parsed_lines(file, config), required)
    return checked(file, _read_columns(file, required, optional))


def read_batches(
    file: PoolFile, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch of a Parquet or Arrow file with the row of its first record."""
    batches = _read_parquet if file.format == "parquet" else _read_arrow
    first_row = 0
    with _open(file) as handle:
        for batch in batches(handle, columns):
            yield first_row, batch
            first_row += batch.num_rows


def read_lines(file: PoolFile, max_bytes: int) -> Iterator[bytes | Unreadable]:
    """Each line of `file`; of a line longer than `max_bytes` only its start is held in memory."""
    with _open(file) as handle:
        while line := handle.readline(max_bytes + 1):
            if len(line) <= max_bytes or line.endswith(b"\n"):
                yield line
                continue
            num_bytes = len(line)
            while (rest := handle.readline(BUFFER_BYTES)) and not rest.endswith(b"\n"):
                num_bytes += len(rest)
            reason = f"longer than {max_bytes} bytes: {num_bytes + len(rest)}"
            yield Unreadable(reason, excerpt_of(line))


def column_names(file: PoolFile) -> list[str]:
    """Names of the columns of a Parquet or Arrow file."""
    with _open(file) as handle:
        if file.format == "parquet":
            return list(pq.read_schema(handle).names)
        return list(pa.ipc.open_stream(handle).schema.names)


def excerpt_of(value: object) -> str:
    """The start of a value as text, for a message."""
    if isinstance(value, bytes):
        return value[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
    return str(value)[:EXCERPT]


def first_columns(file: PoolFile, config: PoolConfig) -> list[str]:
    """Names of the columns of a table, or of the first object of a JSONL file; none: it has none.

    Raises:
        DataError: the file is damaged or can't be opened.
    """
    if file.format not in ("jsonl", "text"):
        with read_errors(file):
            return column_names(file)
    records = (record for _, _, record in read_parsed_lines(file, config))
    return next((list(record) for record in records if isinstance(record, dict)), [])


def missing_column(file: PoolFile, name: str, columns: Iterable[str], other: str = "") -> DataError:
    """The error for a column that `file` does not have; `other` says what else it lacks."""
    shown = (" ".join(column.split())[:EXCERPT] for column in columns)
    seen = ", ".join(f"`{column}`" for column in shown) or "no columns"
    named = "`pool.text`, `pool.tokens`, `pool.id` and `pool.source`"
    if other:
        named = "`pool.messages`, or `pool.prompt` and `pool.completion`"
    return pool_error(
        f"{file.url}: has no column `{name}`{other}; it has {seen}. Name the right ones in {named}."
    )


def checked(file: PoolFile, records: Iterator[Numbered]) -> Iterator[Numbered]:
    """The same records; what `read_errors` knows becomes a DataError that says after which row."""
    after = "at its start"
    with read_errors(file, lambda: after):
        for record in records:
            yield record
            after = f"after row {record[0]}"


@contextlib.contextmanager
def read_errors(
    file: PoolFile, place: Callable[[], str] = lambda: "at its start"
) -> Iterator[None]:
    """Turns whatever a damaged file or its store makes the libraries raise into a DataError."""
    try:
        yield
    except Exception as error:  # what the clients of object stores raise has no base
        known = OSError | EOFError | MemoryError | UnicodeDecodeError | pa.ArrowException
        is_known = isinstance(error, known)
        if isinstance(error, DsdmError) or (file.is_local and not is_known):
            raise
        cause = " ".join(str(error).split())
        raise pool_error(
            f"{file.url}: cannot be read {place()} ({type(error).__name__}: {cause}). It is "
            "missing, cut short or damaged, or its store refuses it: fetch it again, leave it out "
            "of `pool.files`, or see to it that it can be reached from here."
        ) from error


def _open(file: PoolFile) -> Any:
    handle = fsspec.open(file.url, "rb").open()
    if file.compression:
        # Unlike the gzip and zstandard modules it notices truncation and reads all frames.
        handle = pa.CompressedInputStream(handle, file.compression)
        return io.BufferedReader(handle, BUFFER_BYTES)
    if file.format in ("jsonl", "text") and not file.is_local:
        # The files of object stores' clients know no longest line.
        return io.BufferedReader(handle, BUFFER_BYTES)
    return handle


def _read_parquet(handle: Any, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(
        handle, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    )
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        row_bytes = about.total_byte_size / max(about.num_rows, 1)
        batch_rows = min(max(int(BATCH_BYTES / max(row_bytes, 1)), 1), 4096)
        yield from file.iter_batches(batch_rows, row_groups=[group], columns=columns)


def _read_arrow(handle: Any, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    for batch in pa.ipc.open_stream(handle):
        chosen = batch if columns is None else batch.select(columns)
        row_bytes = max(chosen.nbytes / max(chosen.num_rows, 1), 1)
        batch_rows = max(int(BATCH_BYTES / row_bytes), 1)
        for start in range(0, chosen.num_rows, batch_rows):
            yield chosen.slice(start, batch_rows)


def _read_columns(
    file: PoolFile, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, Fields | Unreadable]]:
    present = column_names(file)
    for name in required:
        if name not in present:
            raise missing_column(file, name, present)
    columns = [*required, *(name for name in optional if name in present)]
    for first_row, batch in read_batches(file, columns):
        values = [_plain_values(batch.column(name)) for name in columns]
        for i, row in enumerate(zip(*values, strict=True)):
            yield first_row + i, dict(zip(columns, row, strict=True))


def _plain_values(column: pa.Array) -> Sequence[Any]:
    if pa.types.is_dictionary(column.type):
        column.validate(full=True)
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.binary())  # Arrow does not check that its strings are UTF-8
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    # A damaged file may say that a value lies outside of it, and Arrow would look there.
    column.validate(full=True)
    if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return [_token_array(value) for value in column]
    values: Sequence[Any] = column.to_pylist()
    return values


def _token_array(value: pa.Scalar) -> Any:
    """The integers of one list; anything else as plain Python, for the message."""
    if (
        value.values is None
        or value.values.null_count
        or not pa.types.is_integer(value.type.value_type)
    ):
        return value.as_py()
    return value.values.to_numpy(zero_copy_only=False)


def read_parsed_lines(
    file: PoolFile, config: PoolConfig
) -> Iterator[tuple[int, int, Fields | Unreadable]]:
    """Row, bytes and record of each line of a JSONL or text file that is not blank."""
    if file.format == "text" and config.text_documents == "file":
        return checked(file, _read_whole(file, config))
    return checked(file, _parse_lines(file, config))


def _parse_lines(
    file: PoolFile, config: PoolConfig
) -> Iterator[tuple[int, int, Fields | Unreadable]]:
    for row, line in enumerate(read_lines(file, config.max_document_bytes)):
        if isinstance(line, Unreadable):
            yield row, 0, line
        elif line.strip():
            is_json = file.format == "jsonl"
            record = _parse_json(line) if is_json else {config.text: line.rstrip(b"\r\n")}
            yield row, len(line), record


def _with_fields(
    file: PoolFile,
    records: Iterator[tuple[int, int, Fields | Unreadable]],
    required: Sequence[str],
) -> Iterator[tuple[int, Fields | Unreadable]]:
    """The same records, once the first object is seen to have the `required` fields."""
    is_first = True
    for row, _, record in records:
        if isinstance(record, dict) and is_first:
            is_first = False
            for name in required:
                if name not in record:
                    raise missing_column(file, name, record)
        yield row, record


def _parse_json(line: bytes) -> Fields | Unreadable:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Unreadable("invalid UTF-8", excerpt_of(line))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON: {error}", excerpt_of(line))
    if not isinstance(record, dict):
        return Unreadable(f"not a JSON object but {type(record).__name__}", excerpt_of(line))
    return record


def _read_whole(
    file: PoolFile, config: PoolConfig
) -> Iterator[tuple[int, int, Fields | Unreadable]]:
    limit = config.max_document_bytes
    with _open(file) as handle:
        text = handle.read(limit + 1)
    if len(text) > limit:
        yield 0, 0, Unreadable(f"longer than {limit} bytes", excerpt_of(text))
    else:
        yield 0, len(text), {config.text: text}
