"""How well a model predicts the pool itself: bits a byte on candidates that it never saw.

The first token of a row is predicted from nothing, so neither its bits nor its bytes count.
A special token (the end of a document) costs bits and has no bytes.
"""

import json
import math
import re

import numpy as np
import torch
from jaxtyping import Int
from transformers import PreTrainedModel

from dsdm.data.batches import Rows, iter_batches
from dsdm.data.tokenizer import Tokenizer
from dsdm.errors import ModelError
from dsdm.lm.outputs import token_outputs
from dsdm.precision import Precision, autocast

SPACE = "▁"
"""How SentencePiece writes a space."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def bits_per_byte(
    model: PreTrainedModel,
    rows: Rows,
    num_bytes: Int[np.ndarray, " rows"],
    *,
    batch_tokens: int,
    precision: Precision = "auto",
) -> float:
    """The loss of all rows together in bits, over the bytes of the text that was predicted.

    Args:
        model: On the device where it is to run.
        rows: A slice of the pool.
        num_bytes: UTF-8 bytes of the predicted tokens of each row, as `predicted_bytes` counts.
        batch_tokens: Tokens in one forward pass, padding included.
        precision: What matrix products run in.

    Raises:
        ValueError: as many counts as rows are needed, and one byte at least.
    """
    if len(num_bytes) != len(rows.lengths) or num_bytes.sum() < 1:
        raise ValueError(
            f"{len(num_bytes)} counts of {num_bytes.sum()} bytes were given for "
            f"{len(rows.lengths)} rows; give one for each, some of them above 0."
        )
    nats = 0.0
    with torch.inference_mode(), autocast(model.device, precision):
        for _, batch in iter_batches(rows, batch_tokens, model.device):
            nats -= token_outputs(model, batch, "loglik").double().sum().item()
    return nats / math.log(2) / int(num_bytes.sum())


def predicted_bytes(rows: Rows, tokenizer: Tokenizer) -> Int[np.ndarray, " rows"]:
    """UTF-8 bytes of the tokens of each row whose prediction counts.

    Counted token by token, so that a character that two rows share is split as its bytes are.

    Raises:
        ModelError: the tokenizer's tokens do not tell their bytes.
    """
    sizes = token_bytes(tokenizer)
    counts = np.zeros(len(rows.lengths), np.int64)
    for index in range(len(counts)):
        row = rows.row(index)
        counts[index] = sizes[row.tokens[row.is_counted]].sum()
    return counts


def token_bytes(tokenizer: Tokenizer) -> Int[np.ndarray, " vocab"]:
    """UTF-8 bytes that each token id stands for, 0 for special tokens and unused ids.

    Raises:
        ModelError: neither a byte-level tokenizer nor one of SentencePiece's kind.
    """
    parts = _decoder_parts(tokenizer)
    if not parts & {"ByteLevel", "Metaspace", "ByteFallback"}:
        raise ModelError(
            "tokenizer: the bytes of its tokens cannot be told (its decoder has "
            f"{', '.join(sorted(parts)) or 'no parts'}). Use a byte-level tokenizer or one of "
            "SentencePiece's kind, or leave bits per byte out."
        )
    sizes = np.zeros(tokenizer.vocab_size, np.int64)
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        # A byte-level tokenizer writes each byte as one character of its own alphabet.
        sizes[index] = len(token) if "ByteLevel" in parts else _spelled_bytes(token)
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        sizes[index] = 0 if added.special else len(added.content.encode())
    return sizes


def held_out_candidates(
    candidate_of_row: Int[np.ndarray, " rows"], num_candidates: int, count: int, seed: int
) -> Int[np.ndarray, " held_out"]:
    """The candidates to keep out of the training of target models, sorted, at most `count`.

    Drawn at random among those with a row. The same seed and a larger count give more candidates
    and all of the ones before.
    """
    has_row = np.zeros(num_candidates, bool)
    has_row[candidate_of_row] = True
    order = np.random.default_rng(seed).permutation(num_candidates)
    return np.sort(order[has_row[order]][:count])


def _decoder_parts(tokenizer: Tokenizer) -> set[str]:
    decoder = json.loads(tokenizer.backend.to_str())["decoder"] or {}
    return {part["type"] for part in decoder.get("decoders", [decoder]) if part}


def _spelled_bytes(token: str) -> int:
    return 1 if _BYTE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
