"""Text to token ids and back."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dsdm.config import Config
from dsdm.errors import ModelError

END = "<|endoftext|>"
KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>")


class TokenizerConfig(Config, frozen=True):
    """The tokenizer, given or trained on the pool."""

    path: str | None = None
    """Hugging Face id, folder or tokenizer.json. None: train a byte-level BPE on the pool."""
    vocab_size: Annotated[int, msgspec.Meta(ge=257)] = 4096
    """Size of the vocabulary that is trained."""
    sample_bytes: Annotated[int, msgspec.Meta(ge=1)] = 50_000_000
    """Bytes of the pool's text to train on."""


@dataclass(frozen=True)
class Tokenizer:
    """A `tokenizers.Tokenizer` that adds, cuts and forges nothing."""

    backend: tokenizers.Tokenizer
    eos: int
    """Id of the token that ends a document."""
    vocab_size: int
    """One more than the largest id."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, no special token among them."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special tokens are left out."""
        text: str = self.backend.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Writes `folder` so that `transformers.AutoTokenizer` and `load_tokenizer` read it."""
        from transformers import PreTrainedTokenizerFast

        eos = self.backend.id_to_token(self.eos)
        PreTrainedTokenizerFast(
            tokenizer_object=self.backend, eos_token=eos, pad_token=eos
        ).save_pretrained(folder)


def make_tokenizer(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """The tokenizer at `config.path`, or one trained on the first `sample_bytes` of `texts`.

    Raises:
        ModelError: there is no usable tokenizer at the path, or no text to train on.
    """
    if config.path is None:
        return _train(config, texts)
    path = Path(config.path)
    if path.is_file():
        return _wrap(_from_file(path), None, config.path)
    if (path / "tokenizer.json").is_file() and (path / "tokenizer_config.json").is_file():
        return load_tokenizer(path)
    return _from_hub(config.path)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder that `save`, or transformers, wrote.

    Raises:
        ModelError: the folder holds none, or it can't be used.
    """
    try:
        about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/tokenizer_config.json: cannot be read ({error}).") from error
    eos = about.get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    return _wrap(_from_file(folder / "tokenizer.json"), eos, str(folder))


def _from_file(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{path}: is not a readable tokenizer.json ({error}).") from error


def _from_hub(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name}: no tokenizer of that name or path could be loaded ({error}). "
            "Correct `tokenizer.path`."
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{name}: has no fast tokenizer (tokenizer.json), which dsdm needs.")
    return _wrap(backend, loaded.eos_token, name)


def _train(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = _first_bytes(texts, config.sample_bytes)
    first = next(sample, None)
    if first is None:
        raise ModelError(
            "There is no text to train a tokenizer on. For a pool of tokens, name the tokenizer "
            "they were made with in `tokenizer.path`."
        )
    backend.train_from_iterator(_with_first(first, sample), trainer)
    return _wrap(backend, END, "the trained tokenizer")


def _with_first(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _first_bytes(texts: Iterator[str], num_bytes: int) -> Iterator[str]:
    for text in texts:
        yield text
        num_bytes -= len(text.encode())
        if num_bytes <= 0:
            return


def _wrap(backend: tokenizers.Tokenizer, eos: str | None, where: str) -> Tokenizer:
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if eos is None:
        known = [token for token in KNOWN_ENDS if token in vocabulary]
        eos = known[0] if len(known) == 1 else None
    if eos is None or eos not in vocabulary:
        raise ModelError(
            f"{where}: has no end-of-text token, which closes each document. Give it an "
            "`eos_token` in tokenizer_config.json and name the folder in `tokenizer.path`."
        )
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # `</s>` written out in a text stays text
    return Tokenizer(backend, vocabulary[eos], max(vocabulary.values()) + 1)
