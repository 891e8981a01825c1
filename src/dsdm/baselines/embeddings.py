"""One vector for each candidate, close where texts mean about the same."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.packages import MINILM, PROXY, minilm_folder, require_embedding
from dsdm.baselines.pool_batches import BATCH_TOKENS, pool_batches
from dsdm.data.batches import Batch, Rows, iter_batches
from dsdm.errors import ModelError, NumericalError
from dsdm.lm.outputs import hidden_states
from dsdm.precision import at_least_float

Encode = Callable[[list[str]], np.ndarray]

TEXTS = 1024
"""Texts that a sentence-embedding model gets at once; it sorts them by length."""


def candidate_embeddings(
    inputs: BaselineInputs, embedding: str, method: str
) -> Float[np.ndarray, "candidates dim"]:
    """The embedding of each candidate, float32, of unit length.

    By the proxy it is the mean state over all tokens that are read, in every row all but the
    last. Another model reads a text as far as its own limit. One pass of `inputs.advance`.

    Args:
        inputs: The pool, and the proxies.
        embedding: `proxy`, `minilm`, or a sentence-embedding model's id or folder.
        method: The baseline, for messages.

    Raises:
        ModelError: the embedding can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    if embedding == PROXY:
        vectors = _state_sums(inputs)
    else:
        vectors = _text_embeddings(inputs, _load_encode(embedding, method))
    return _unit_length(vectors, embedding, method, "candidate")


def target_embeddings(
    inputs: BaselineInputs, embedding: str, method: str
) -> dict[str, Float[np.ndarray, "examples dim"]]:
    """The embedding of each target's examples; arguments and errors are `candidate_embeddings`'."""
    if embedding == PROXY:
        model = inputs.proxies[0]()
        found = {name: _row_states(rows, model) for name, rows in inputs.target_rows.items()}
    else:
        encode = _load_encode(embedding, method)
        found = {name: encode(list(texts)) for name, texts in inputs.targets.items()}
    return {
        name: _unit_length(vectors, embedding, method, f"{name}'s example")
        for name, vectors in found.items()
    }


def _state_sums(inputs: BaselineInputs) -> Float[np.ndarray, "candidates dim"]:
    """Sums of states, which point where their means do.

    Always in fp32: bf16 can't tell near-duplicates apart.
    """
    model = inputs.proxies[0]()
    width = model.get_output_embeddings().weight.shape[1]
    sums = np.zeros((inputs.num_candidates, width), np.float32)
    with torch.inference_mode():
        for rows, candidates, batch in pool_batches(inputs, model):
            np.add.at(sums, candidates, _summed_states(model, batch, inputs.rows.lengths[rows]))
    return sums


def _row_states(rows: Rows, model: PreTrainedModel) -> Float[np.ndarray, "rows dim"]:
    sums = np.zeros((len(rows.lengths), model.get_output_embeddings().weight.shape[1]), np.float32)
    with torch.inference_mode():
        for indices, batch in iter_batches(rows, BATCH_TOKENS, model.device):
            sums[indices] = _summed_states(model, batch, rows.lengths[indices])
    return sums


def _summed_states(
    model: PreTrainedModel, batch: Batch, lengths: np.ndarray
) -> Float[np.ndarray, "rows dim"]:
    states = at_least_float(hidden_states(model, batch))
    is_read = np.arange(states.shape[1]) < np.maximum(lengths - 1, 1)[:, None]
    states *= torch.from_numpy(is_read).to(states.device)[:, :, None]
    return states.sum(1).float().cpu().numpy()


def _text_embeddings(inputs: BaselineInputs, encode: Encode) -> Float[np.ndarray, "candidates dim"]:
    texts, first = inputs.texts(), 0
    vectors = np.zeros((0, 1), np.float32)
    while block := list(islice(texts, TEXTS)):
        found = encode(block)
        if first == 0:
            vectors = np.zeros((inputs.num_candidates, found.shape[1]), np.float32)
        vectors[first : first + len(block)] = found
        first += len(block)
        inputs.advance(len(block))
    return vectors


def _load_encode(embedding: str, method: str) -> Encode:
    """A sentence-embedding model's function of texts; a folder is never looked up elsewhere."""
    require_embedding(method, embedding)
    place = minilm_folder() if embedding == MINILM else embedding
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            place,
            trust_remote_code=False,
            local_files_only=Path(place).is_dir(),
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # what the package, its hub and safetensors raise has no base
        raise ModelError(f"{method}: `embedding` {embedding!r} can't be loaded: {error}") from error

    def encode(texts: list[str]) -> np.ndarray:
        return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)

    return encode


def _unit_length(
    vectors: Float[np.ndarray, "texts dim"], embedding: str, method: str, what: str
) -> Float[np.ndarray, "texts dim"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = (~np.isfinite(lengths) | (lengths == 0))[:, 0]
    if bad.any():
        raise NumericalError(
            f"{method}: {embedding!r} gave {int(bad.sum()):,} of {len(bad):,} "
            f"{what}s an embedding without direction; the first is {what} {int(np.argmax(bad))}, "
            f"of length {lengths[np.argmax(bad), 0]}. Look at its text, or take another "
            "`embedding`."
        )
    vectors /= lengths
    return vectors
