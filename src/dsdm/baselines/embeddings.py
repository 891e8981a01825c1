"""One vector for each candidate, close where texts mean about the same."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from dsdm.baselines.config import SemDedupConfig
from dsdm.baselines.pool_batches import pool_batches
from dsdm.baselines.question import Question
from dsdm.errors import ModelError, NumericalError
from dsdm.lm.outputs import at_least_float, hidden_states

Encode = Callable[[list[str]], np.ndarray]

TEXTS = 1024
"""Texts that a sentence-embedding model gets at once; it sorts them by length."""


def candidate_embeddings(
    question: Question, config: SemDedupConfig
) -> Float[np.ndarray, "candidates dim"]:
    """The embedding of each candidate, float32, of unit length.

    By the proxy it is the mean state over all tokens that are read, in every row all but the
    last. Another model reads a text as far as its own limit. One pass of `question.advance`.

    Raises:
        ModelError: `config.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    if config.embedding == "proxy":
        vectors = _state_sums(question)
    else:
        vectors = _text_embeddings(question, _load_encode(config.embedding))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    _require_direction(lengths[:, 0], config.embedding)
    vectors /= lengths
    return vectors


def _state_sums(question: Question) -> Float[np.ndarray, "candidates dim"]:
    """Sums of states, which point where their means do.

    Always in fp32: bf16 can't tell near-duplicates apart.
    """
    model = question.proxies[0]()
    width = model.get_output_embeddings().weight.shape[1]
    sums = np.zeros((question.num_candidates, width), np.float32)
    with torch.inference_mode():
        for rows, candidates, batch in pool_batches(question, model):
            states = at_least_float(hidden_states(model, batch))
            num_read = np.maximum(question.rows.lengths[rows] - 1, 1)
            is_read = np.arange(states.shape[1]) < num_read[:, None]
            states *= torch.from_numpy(is_read).to(states.device)[:, :, None]
            np.add.at(sums, candidates, states.sum(1).float().cpu().numpy())
    return sums


def _text_embeddings(question: Question, encode: Encode) -> Float[np.ndarray, "candidates dim"]:
    texts, first = question.texts(), 0
    vectors = np.zeros((0, 1), np.float32)
    while block := list(islice(texts, TEXTS)):
        found = encode(block)
        if first == 0:
            vectors = np.zeros((question.num_candidates, found.shape[1]), np.float32)
        vectors[first : first + len(block)] = found
        first += len(block)
        question.advance(len(block))
    return vectors


def _load_encode(name: str) -> Encode:
    """A sentence-embedding model's function of texts; a folder is never looked up elsewhere."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(
            f"semdedup: `embedding` is {name!r}, which is read by the package "
            "`sentence-transformers`, and that is not installed. Install it, or set `embedding` to "
            "`proxy`."
        ) from error
    try:
        model = SentenceTransformer(
            name,
            trust_remote_code=False,
            local_files_only=Path(name).is_dir(),
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # what the package, its hub and safetensors raise has no base
        raise ModelError(f"semdedup: `embedding` {name!r} can't be loaded: {error}") from error

    def encode(texts: list[str]) -> np.ndarray:
        return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)

    return encode


def _require_direction(lengths: Float[np.ndarray, " candidates"], embedding: str) -> None:
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        raise NumericalError(
            f"semdedup: {embedding!r} gave {int(bad.sum()):,} of {len(bad):,} candidates an "
            f"embedding without direction; the first is candidate {int(np.argmax(bad))}, of length "
            f"{lengths[np.argmax(bad)]}. Look at its text, or take another `embedding`."
        )
