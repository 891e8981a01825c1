"""Where a run of documents is cut into rows."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np

from dsdm.config import Config

Unit = Literal["document", "row"]

ROW = np.dtype([("start", "<i8"), ("length", "<i4"), ("document", "<i8")])
BLOCK = 1 << 16


class ExamplesConfig(Config, frozen=True):
    """How documents become examples."""

    unit: Unit = "document"
    """What is scored and selected: whole documents, or rows of exactly `row_tokens` tokens."""
    row_tokens: Annotated[int, msgspec.Meta(ge=4)] = 256
    """Longest row, in tokens; a longer document is several rows, a longer conversation is
    rejected."""


def cut_rows(starts: np.ndarray, total: int, config: ExamplesConfig) -> Iterator[np.ndarray]:
    """Blocks of ROW records that cover `total` tokens once, given where each document starts.

    A last row of one token, of which nothing could be predicted, takes one from the row before.
    """
    if config.unit == "row":
        yield from _cut_run(starts, total, config.row_tokens)
        return
    for low in range(0, len(starts), BLOCK):
        ends = np.append(starts[low + 1 : low + BLOCK + 1], total)
        block = starts[low : low + BLOCK]
        yield _cut_documents(block, ends[: len(block)], low, config.row_tokens)


def _cut_run(starts: np.ndarray, total: int, row_tokens: int) -> Iterator[np.ndarray]:
    num_rows = -(-total // row_tokens)
    for low in range(0, num_rows, BLOCK):
        indices = np.arange(low, min(low + BLOCK, num_rows) + 1)
        edges = np.minimum(indices * row_tokens, total)
        if total % row_tokens == 1 and num_rows > 1:
            edges[indices == num_rows - 1] -= 1
        rows = np.empty(len(edges) - 1, ROW)
        rows["start"] = edges[:-1]
        rows["length"] = np.diff(edges)
        rows["document"] = np.searchsorted(starts, edges[:-1], side="right") - 1
        yield rows


def _cut_documents(
    starts: np.ndarray, ends: np.ndarray, first_document: int, row_tokens: int
) -> np.ndarray:
    lengths = ends - starts
    counts = -(-lengths // row_tokens)
    document = np.repeat(np.arange(len(starts)), counts)
    first_rows = np.cumsum(counts) - counts
    position = np.arange(len(document)) - first_rows[document]
    is_last = position == counts[document] - 1
    short = (lengths % row_tokens == 1) & (counts > 1)
    rows = np.empty(len(document), ROW)
    rows["start"] = starts[document] + position * row_tokens - (is_last & short[document])
    rows["length"] = np.where(is_last, ends[document], np.roll(rows["start"], -1)) - rows["start"]
    rows["document"] = first_document + document
    return rows
