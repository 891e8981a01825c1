"""Reading target examples from JSONL and plain text files."""

import dataclasses
import glob
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from dsdm.config import without_secrets
from dsdm.data.conversations import (
    ASSISTANT,
    BadRecordError,
    Conversation,
    Message,
    parse_conversation,
)
from dsdm.errors import DataError, DsdmError

_SHAPES = (
    "context + continuation, context + answer, query + choices + gold, "
    "context_options + continuation + gold, messages, or prompt + completion"
)
MAX_LINE_BYTES = 10_000_000
"""A longer line is no example, but what a small compressed file can unpack to."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TargetExample:
    """A prompt and the answer that a model should give to it."""

    context: str
    answer: str
    """Starts with the whitespace that parts it from the context, if any does."""
    where: str
    """File and line, or task and document, for messages."""
    group: str
    """Examples of one group stay in one part of the split."""
    chat: tuple[Message, ...] = ()
    """The same as a chat that ends with the answer, where a chat template is to be applied."""


def read_jsonl_examples(path: str, delimiter: str, group: str | None) -> Iterator[TargetExample]:
    """Examples of a JSONL file, the gold answers alone.

    Raises:
        DataError: the file can't be read, or some lines aren't examples; names the first of them.
    """
    lines = ((number, line) for number, line in _read_lines(path) if line.strip())

    def parse(numbered: tuple[int, bytes]) -> TargetExample:
        number, line = numbered
        where = f"{without_secrets(path)}:{number}"
        record = _parse_line(line, where)
        if "messages" in record or {"prompt", "completion"} <= record.keys():
            return _spoken(record, group, where)
        context, answer = _gold_pair(record, where)
        answer = join_answer(context, answer, delimiter, where)
        return TargetExample(
            context, answer, where, group_of(record, group, context + answer, where)
        )

    yield from collect(lines, parse)


def read_texts(pattern: str) -> Iterator[tuple[str, str]]:
    """Path and content of each file that a path, glob or folder names, in sorted order.

    Raises:
        DataError: nothing matches, or a file can't be read as UTF-8.
    """
    for path in _list_text_files(pattern):
        content = b"".join(line for _, line in _read_lines(path))
        try:
            yield without_secrets(path), content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path}:{line}: is not UTF-8 text ({error.reason} at byte {error.start}). "
                "Convert the file to UTF-8."
            ) from error


def join_answer(context: str, answer: str, delimiter: str, where: str) -> str:
    """`answer` with `delimiter` in front, unless whitespace already parts it from `context`."""
    if not answer.strip():
        raise DataError(f"{where}: the answer is empty ({answer!r}). Delete it or give an answer.")
    if not context or context[-1].isspace() or answer[0].isspace():
        return answer
    return delimiter + answer


def group_of(record: Mapping[str, Any], column: str | None, text: str, where: str) -> str:
    """The value of `column`; without one the text itself, so that equal examples stay together."""
    if column is None:
        return text
    if record.get(column) is None:
        raise DataError(f"{where}: has no value in `{column}`, the target's `group` column.")
    return str(record[column])


def collect(items: Iterable[Item], parse: Callable[[Item], Result]) -> Iterator[Result]:
    """`parse` of each item; one DataError at the end tells the first failure and how many more."""
    problems: list[str] = []
    for item in items:
        try:
            result = parse(item)
        except DataError as error:
            problems.append(str(error))
        else:
            yield result
    if problems:
        others = f" {len(problems) - 1} more examples have problems." if problems[1:] else ""
        raise DataError(problems[0] + others)


def _list_text_files(pattern: str) -> list[str]:
    if "://" in pattern:
        return [pattern]
    if os.path.isdir(pattern):
        paths = sorted(str(path) for path in Path(pattern).iterdir() if path.is_file())
    else:
        paths = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
    if not paths:
        raise DataError(f"{pattern}: no file is there. Correct the target's path.")
    return paths


def _read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    try:
        with fsspec.open(path, "rb", compression="infer") as raw:
            file = io.BufferedReader(raw)
            lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{path}:{number}: is longer than {MAX_LINE_BYTES:,} bytes.")
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except DsdmError:
        raise
    except Exception as error:  # what the clients of object stores raise has no base
        known = (OSError, EOFError, ValueError, ImportError, zlib.error)
        if "://" not in path and not isinstance(error, known):
            raise
        raise DataError(
            without_secrets(
                f"{path}: cannot be read ({error}). Correct the target's path or the file."
            )
        ) from error


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error}): {line[:60]!r}.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {line[:60]!r}.")
    return record


def _gold_pair(record: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Context and gold answer of a record in one of the known shapes."""
    if {"context_options", "continuation", "gold"} <= record.keys():
        return _gold_option(record, "context_options", where), _text(record, "continuation", where)
    if {"query", "choices", "gold"} <= record.keys():
        return _text(record, "query", where), _gold_option(record, "choices", where)
    for answer in ("continuation", "answer"):
        if {"context", answer} <= record.keys():
            return _text(record, "context", where), _text(record, answer, where)
    raise DataError(f"{where}: has columns {sorted(record)}; a target needs {_SHAPES}.")


def as_chat(example: TargetExample) -> TargetExample:
    """The example as a user's message and the assistant's, where it is no chat yet."""
    if example.chat:
        return example
    turns = (Message("user", example.context.strip()), Message(ASSISTANT, example.answer.strip()))
    return dataclasses.replace(example, chat=turns)


def _spoken(record: Mapping[str, Any], group: str | None, where: str) -> TargetExample:
    """A conversation whose last message is the answer."""
    try:
        found = parse_conversation(record, "messages", "prompt", "completion")
    except BadRecordError as bad:
        raise DataError(f"{where}: {bad.args[0]} ({bad.args[1]!r:.60}).") from bad
    context, answer = _context_and_answer(found, where)
    return TargetExample(
        context, answer, where, group_of(record, group, context + answer, where), found.messages
    )


def _context_and_answer(found: Conversation, where: str) -> tuple[str, str]:
    if not found.messages:
        return found.prompt, found.completion
    *before, last = found.messages
    if last.role != ASSISTANT:
        raise DataError(
            f"{where}: the last message is of the {last.role!r}; a target's is the assistant's."
        )
    return "".join(message.content + "\n" for message in before), last.content


def _text(record: Mapping[str, Any], column: str, where: str) -> str:
    value = record[column]
    if not isinstance(value, str):
        raise DataError(f"{where}: `{column}` must be text, got {value!r:.60}.")
    return value


def _gold_option(record: Mapping[str, Any], column: str, where: str) -> str:
    options, gold = record[column], record["gold"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}: `{column}` must be a list of texts, got {options!r:.60}.")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options):
        raise DataError(
            f"{where}: `gold` must be a position in `{column}`, 0 to {len(options) - 1}, "
            f"got {gold!r:.60}."
        )
    chosen: str = options[gold]
    return chosen
