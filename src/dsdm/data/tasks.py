"""Targets: the examples that the training data is chosen for, as rows of tokens in three parts.

`fit` makes the direction, `tune` chooses settings, and `report` is read by nothing but the report.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from dsdm.config import Config
from dsdm.data.harness import read_task_examples
from dsdm.data.sequences import Row
from dsdm.data.target_files import as_chat, read_jsonl_examples, read_texts
from dsdm.data.target_rows import EncodedExample, cut_texts, encode_examples
from dsdm.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from dsdm.data.tokenizer import Tokenizer

Part = Literal["fit", "tune", "report"]
PARTS: tuple[Part, ...] = get_args(Part)
EXAMPLES = "examples.jsonl"


class TargetConfig(Config, frozen=True):
    """One target. Exactly one of `file`, `text` and `task` says where its examples are."""

    name: str
    """What the target is called in folders, tables and plots."""
    file: str | None = None
    """A JSONL file of context/continuation, context/answer, query/choices/gold,
    context_options/continuation/gold, messages or prompt/completion. Losses are those of the gold
    answer's tokens; of messages, the last one's."""
    text: str | None = None
    """A plain text file, a glob or a folder of them. Every token counts."""
    task: str | None = None
    """An lm-evaluation-harness task's name, or the path of a task's YAML file."""
    fewshot: int = 0
    """Solved examples in front of each of the task's questions."""
    report_file: str | None = None
    """Held-out examples in the shape of `file` or `text`, which is then split in fit and tune."""
    group: str | None = None
    """A column whose equal values stay in one part, such as the passage that questions share.
    Without it, only equal examples do."""
    limit: int | None = None
    """The most examples of each part to use, drawn by `seed`."""
    weight: float = 1.0
    """What the target counts for in a mix."""
    split: tuple[float, float, float] = (0.4, 0.2, 0.4)
    """Shares of the examples in fit, tune and report."""
    seed: int = 0
    """Decides which example falls in which part."""
    delimiter: str = " "
    """Put between context and answer where the file has no whitespace there."""
    chat: bool = False
    """Give the context as a user's message and the answer as the assistant's, in the tokenizer's
    chat template. `messages` are given so in any case."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must be letters, digits, `_`, `-` and `.`")
        if sum(place is not None for place in (self.file, self.text, self.task)) != 1:
            raise ValueError("a target needs exactly one of `file`, `text` and `task`")
        if self.task is None and self.fewshot:
            raise ValueError("`fewshot` is for a target with `task`")
        if self.task is not None and self.report_file is not None:
            raise ValueError("`report_file` is for a target with `file` or `text`")
        if self.text is not None and self.group is not None:
            raise ValueError("`group` is for a target with `file` or `task`")
        if self.text is not None and self.chat:
            raise ValueError("`chat` is for a target with `file` or `task`")
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"`split` {self.split} must be three shares above 0 that add to 1")
        if self.fewshot < 0 or self.weight < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError("`fewshot` and `weight` must not be negative, `limit` at least 1")

    @property
    def places(self) -> tuple[str | None, ...]:
        """What names the files that the examples are read from."""
        return (self.file, self.text, self.task, self.report_file)


@dataclass(frozen=True)
class TargetRows:
    """One part of a target as rows whose answers count; implements `sequences.Rows`."""

    tokens: np.ndarray
    """Token ids of all rows, one after another."""
    starts: np.ndarray
    """Where each row starts in `tokens`, and the end: shape (rows + 1,)."""
    answer_starts: np.ndarray
    """Each answer's first token, counted from the row's start: shape (rows,), at least 1."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (rows,)."""
        return np.diff(self.starts)

    def row(self, index: int) -> Row:
        """The row at `index`."""
        tokens = self.tokens[self.starts[index] : self.starts[index + 1]]
        return Row(tokens, int(self.answer_starts[index]))


def write_target(
    config: TargetConfig, tokenizer: "Tokenizer", row_tokens: int, folder: Path
) -> dict[str, int]:
    """Writes each part's rows, and the texts of all, into a folder.

    Returns:
        The number of examples of each part, and of `left_cut_contexts`, `answer_tokens` and
        `report_seen_before`, examples of the report that the other parts have too.

    Raises:
        DataError: the examples can't be read or encoded, or a part would be empty.
    """
    parts = _encode_parts(config, tokenizer, row_tokens)
    for part, encoded in parts.items():
        _write_rows(folder / f"{part}.npz", encoded)
    _write_texts(folder / EXAMPLES, parts)
    written = [one for encoded in parts.values() for one in encoded]
    chosen_on = {one.example.group for one in parts["fit"] + parts["tune"]}
    return {part: len(encoded) for part, encoded in parts.items()} | {
        "left_cut_contexts": sum(one.is_cut for one in written),
        "answer_tokens": sum(len(one.tokens) - one.answer_start for one in written),
        "report_seen_before": sum(one.example.group in chosen_on for one in parts["report"]),
    }


def load_target(folder: Path, part: Part) -> TargetRows:
    """The rows of one part of the target in `folder`."""
    try:
        with np.load(folder / f"{part}.npz", allow_pickle=False) as arrays:
            return TargetRows(arrays["tokens"], arrays["starts"], arrays["answer_starts"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: part {part!r} of the target can't be read ({error})."
        ) from error


def read_target_texts(folder: Path, parts: Sequence[Part] = ("fit",)) -> Iterator[tuple[str, str]]:
    """Context and answer of each example in `parts`, in the order of the rows.

    Their concatenation is the example as a model reads it, before any cut.
    """
    with open(folder / EXAMPLES, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record["part"] in parts:
                yield record["context"], record["answer"]


def _encode_parts(
    config: TargetConfig, tokenizer: "Tokenizer", row_tokens: int
) -> dict[Part, list[EncodedExample]]:
    place = _place(config)
    encoded = list(_read_encoded(config, place, tokenizer, row_tokens))
    shares = config.split if config.report_file is None else config.split[:2]
    part_of = split_groups([one.example.group for one in encoded], shares, config.seed)
    parts = {
        part: [encoded[i] for i in np.flatnonzero(part_of == number)]
        for number, part in enumerate(PARTS)
    }
    if config.report_file is not None:
        parts["report"] = list(_read_encoded(config, config.report_file, tokenizer, row_tokens))
    for number, part in enumerate(PARTS):
        if not parts[part]:
            raise DataError(_empty_part(config, part, len(encoded)))
        parts[part] = _draw(parts[part], config.limit, seed=(config.seed, number))
    return parts


def _read_encoded(
    config: TargetConfig, place: str, tokenizer: "Tokenizer", row_tokens: int
) -> Iterator[EncodedExample]:
    if config.text is not None:
        return cut_texts(read_texts(place), tokenizer, row_tokens)
    if config.task is not None:
        examples = read_task_examples(place, config.fewshot, config.seed, config.group)
    else:
        examples = read_jsonl_examples(place, config.delimiter, config.group)
    if config.chat:
        examples = map(as_chat, examples)
    return encode_examples(list(examples), tokenizer, row_tokens)


def split_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> np.ndarray:
    """The number of each example's part. Parts have `shares` of the examples, whole groups each."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group_of_example = np.array([numbers[group] for group in groups], np.int64)
    sizes = np.bincount(group_of_example, minlength=len(numbers))
    order = np.random.default_rng(seed).permutation(len(numbers))
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    bounds = np.cumsum(shares)[:-1] / sum(shares) * len(groups)
    part_of_group = np.zeros(len(numbers), np.int64)
    part_of_group[order] = np.searchsorted(bounds, middles, side="right")
    return part_of_group[group_of_example]


def _place(config: TargetConfig) -> str:
    place = config.file or config.text or config.task
    assert place is not None
    return place


def _draw(
    encoded: list[EncodedExample], limit: int | None, seed: tuple[int, int]
) -> list[EncodedExample]:
    """At most `limit` of `encoded`, in their order; a smaller draw is part of a larger one."""
    if limit is None:
        return encoded
    drawn = np.random.default_rng(seed).permutation(len(encoded))[:limit]
    return [encoded[i] for i in np.sort(drawn)]


def _empty_part(config: TargetConfig, part: Part, num_examples: int) -> str:
    if part == "report" and config.report_file is not None:
        return f"Target {config.name}: {config.report_file} has no example."
    return (
        f"Target {config.name}: the part {part!r} has no example. {_place(config)} has "
        f"{num_examples}, split {config.split} (fit, tune, report). Give more or change `split`."
    )


def _write_rows(path: Path, encoded: Sequence[EncodedExample]) -> None:
    lengths = [len(one.tokens) for one in encoded]
    # np.savez stamps its entries 1980-01-01, so the same rows are the same bytes.
    np.savez(
        path,
        tokens=np.concatenate([one.tokens for one in encoded]).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        answer_starts=np.array([one.answer_start for one in encoded], np.int32),
    )


def _write_texts(path: Path, parts: dict[Part, list[EncodedExample]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for part, encoded in parts.items():
            for one in encoded:
                record = {
                    "part": part,
                    "context": one.example.context,
                    "answer": one.example.answer,
                    "where": one.example.where,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
