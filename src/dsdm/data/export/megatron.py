"""Megatron-LM's indexed dataset: token ids in a .bin file, where each sequence lies in an .idx.

The .idx file is, little-endian: the magic bytes; version 1 (u64); a code for the type of the token
ids (u8); the number of sequences and of document boundaries (u64 each); the length of each sequence
(i32); its place in the .bin file in bytes (i64); the document boundaries, counted in sequences,
0 first (i64). Source: megatron/core/datasets/indexed_dataset.py.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dsdm.data.export.chosen import Chosen
from dsdm.data.export.dataset import ExportConfig
from dsdm.data.export.format import ExportFormat, export_format

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
TYPE_CODES = {np.dtype("<i4"): 4, np.dtype("<u2"): 8}
PREFIX = "dataset"


@export_format("megatron")
class Megatron(ExportFormat):
    """Megatron-LM's indexed dataset of tokens."""

    def write(self, chosen: Chosen, config: ExportConfig, folder: Path) -> None:
        """Writes dataset.bin and dataset.idx."""
        write_megatron(chosen.tokens(), chosen.lengths, chosen.tokenizer.vocab_size, folder)


def write_megatron(
    tokens: Iterator[np.ndarray], lengths: np.ndarray, vocab_size: int, folder: Path
) -> None:
    """Writes dataset.bin and dataset.idx; each candidate is a sequence and a document.

    Args:
        tokens: ids of each candidate.
        lengths: how many each has, shape (candidates,).
        vocab_size: decides between 2 and 4 bytes a token.
        folder: is there already.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
    with open(folder / f"{PREFIX}.bin", "wb") as file:
        for ids in tokens:
            file.write(ids.astype(dtype).data)
    ends = np.cumsum(lengths.astype("<i8")) * dtype.itemsize
    with open(folder / f"{PREFIX}.idx", "wb") as file:
        file.write(MAGIC)
        counts = (len(lengths), len(lengths) + 1)
        file.write(struct.pack("<QBQQ", VERSION, TYPE_CODES[dtype], *counts))
        file.write(lengths.astype("<i4").data)
        file.write((ends - lengths * dtype.itemsize).astype("<i8").data)
        file.write(np.arange(len(lengths) + 1, dtype="<i8").data)
