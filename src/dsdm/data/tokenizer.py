"""Text to token ids and back."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dsdm.config import Config
from dsdm.data.chat import ChatTemplate
from dsdm.errors import ModelError

END = "<|endoftext|>"
GGUF = ".gguf"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>")


class TokenizerConfig(Config, frozen=True):
    """The tokenizer, given or trained on the pool."""

    path: str | None = None
    """Hugging Face id, folder, tokenizer.json or .gguf file. None: the tokenizer of a pretrained
    `model.path`, else a byte-level BPE that is trained on the pool."""
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
    chat_template: str | None = None
    """Jinja source of the template that a chat model's conversations are written in."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Such as `bos_token`, for the chat template."""

    @property
    def chat(self) -> ChatTemplate:
        """How a chat becomes text.

        Raises:
            ModelError: the tokenizer has no chat template.
        """
        if self.chat_template is None:
            raise ModelError(
                "The tokenizer has no chat template, which turns `messages` into text. Give its "
                "folder a chat_template.jinja, take the tokenizer of a chat model "
                "(`tokenizer.path`), or give `prompt` and `completion` as text instead."
            )
        return ChatTemplate(self.chat_template, self.special_tokens)

    @cached_property
    def marks(self) -> list[str]:
        """The special tokens as text."""
        added = self.backend.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    def encode_marked(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids (int32) of a text whose special tokens are meant, and their characters.

        The characters of each token are from its start up to its end, both int64.
        """
        encoding = self._reading_marks.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return np.array(encoding.ids, np.int32), offsets[:, 0], offsets[:, 1]

    @cached_property
    def _reading_marks(self) -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = False
        return copy

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, no special token among them."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_documents(
        self, texts: Sequence[str], dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all texts, each closed by the end-of-text token, and how many each has."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids: list[int] = []
        lengths = np.empty(len(encodings), np.int64)
        for i, encoding in enumerate(encodings):
            ids += encoding.ids
            ids.append(self.eos)
            lengths[i] = len(encoding) + 1
        return np.fromiter(ids, dtype, len(ids)), lengths

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special tokens are left out."""
        text: str = self.backend.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Writes `folder` so that `transformers.AutoTokenizer` and `load_tokenizer` read it."""
        from transformers import PreTrainedTokenizerFast

        eos = self.backend.id_to_token(self.eos)
        # Of special tokens only a chat template makes use.
        chat = {} if self.chat_template is None else dict(self.special_tokens)
        whole = PreTrainedTokenizerFast(
            tokenizer_object=self.backend,
            **(chat | {"eos_token": eos, "pad_token": eos}),
            **({} if self.chat_template is None else {"chat_template": self.chat_template}),
        )
        with _rust_errors():
            whole.save_pretrained(folder)


@contextlib.contextmanager
def _rust_errors() -> Iterator[None]:
    """`tokenizers` says `... (os error 28)` of a full disk, in an exception of no kind."""
    try:
        yield
    except Exception as error:  # what comes from Rust has no base
        found = re.search(r"\(os error (\d+)\)$", str(error))
        if found is None or isinstance(error, OSError):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def make_tokenizer(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """The tokenizer at `config.path`, or one trained on the first `sample_bytes` of `texts`.

    Raises:
        ModelError: there is no usable tokenizer at the path, or no text to train on.
    """
    if config.path is None:
        return _train(config, texts)
    path = Path(config.path)
    if path.suffix == GGUF:
        return _from_hub(config.path)
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
    special = {n: _token_text(v) for n, v in about.items() if n in SPECIAL_TOKENS and v is not None}
    wrapped = _wrap(_from_file(folder / "tokenizer.json"), special.get("eos_token"), str(folder))
    template = _chat_template(folder, about)
    return dataclasses.replace(wrapped, chat_template=template, special_tokens=special)


def _chat_template(folder: Path, about: dict[str, Any]) -> str | None:
    """The chat template beside a tokenizer, in either of the places where transformers looks."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    named = about.get("chat_template")
    if isinstance(named, list):  # several, of which one is called `default`
        named = {one.get("name"): one.get("template") for one in named}.get("default")
    return named


def _token_text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _from_file(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{path}: is not a readable tokenizer.json ({error}).") from error


def _from_hub(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            **pretrained_place(name), trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name}: no tokenizer of that name or path could be loaded ({error}). "
            "Correct `tokenizer.path`."
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{name}: has no fast tokenizer (tokenizer.json), which dsdm needs.")
    template = loaded.chat_template
    return dataclasses.replace(
        _wrap(backend, loaded.eos_token, name),
        chat_template=template.get("default") if isinstance(template, dict) else template,
        special_tokens={
            n: str(t) for n, t in loaded.special_tokens_map.items() if isinstance(t, str)
        },
    )


def pretrained_place(name: str) -> dict[str, str]:
    """What `from_pretrained` takes for a hub id, a folder, or a .gguf file."""
    path = Path(name)
    if path.suffix != GGUF:
        return {"pretrained_model_name_or_path": name}
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


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
