"""The padded batches that models read, made of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dsdm.data.sequences import Row, Rows, Subset, lengths_of, num_rows

__all__ = [
    "IGNORED",
    "Batch",
    "Row",
    "Rows",
    "Subset",
    "collate",
    "iter_batches",
    "lengths_of",
    "num_rows",
    "plan_batches",
    "present_positions",
    "with_context",
]

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. Position t of `labels` is the token that follows position t."""

    inputs: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    """IGNORED where the prediction does not count: padding and prompt."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(
            self.inputs.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )


def collate(rows: Sequence[Row]) -> Batch:
    """One batch of `rows`, as wide as the longest less one token.

    Padding needs no attention mask: it stands to the right, where causal attention never looks.
    """
    width = max(max(len(row.tokens) for row in rows) - 1, 1)
    inputs = np.zeros((len(rows), width), np.int64)
    labels = np.full((len(rows), width), IGNORED, np.int64)
    for i, row in enumerate(rows):
        length = len(row.tokens) - 1
        inputs[i, : max(length, 1)] = row.tokens[: max(length, 1)]
        first = max(row.answer_start, 1)
        labels[i, first - 1 : length] = row.tokens[first:]
        if row.counted is not None:
            labels[i, :length][~row.counted[1:]] = IGNORED
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels))


def present_positions(batch: Batch) -> Bool[Tensor, "batch seq"]:
    """Where a row is, and not its padding: up to the last prediction that counts."""
    return (batch.labels != IGNORED).flip(1).cumsum(1).flip(1) > 0


def with_context(batch: Batch) -> Batch:
    """The batch in which every prediction of its rows counts, those of the prompt too."""
    following = torch.cat([batch.inputs[:, 1:], batch.labels[:, -1:]], 1)
    is_prompt = present_positions(batch) & (batch.labels == IGNORED)
    return Batch(batch.inputs, torch.where(is_prompt, following, batch.labels))


def plan_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Row indices in batches of about equal length, each at most `max_tokens` with its padding.

    A function of the lengths alone, so any worker cuts the same batches. A row longer than
    `max_tokens` is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(int(lengths[order[start]]), 1))
        batches.append(order[start : start + count])
        start += count
    return batches


def iter_batches(
    rows: Rows, max_tokens: int, device: torch.device | None = None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """All rows once, longest first: the indices of each batch, and the batch on `device`."""
    for indices in plan_batches(rows.lengths, max_tokens):
        batch = collate([rows.row(int(i)) for i in indices])
        yield indices, batch if device is None else batch.to(device)
