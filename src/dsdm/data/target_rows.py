"""Target examples as rows of tokens: where the answer starts, and what a row can hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dsdm.data.conversation_rows import encode_chat
from dsdm.data.conversations import BadRecordError, Conversation
from dsdm.data.target_files import TargetExample, collect
from dsdm.errors import DataError

if TYPE_CHECKING:
    from dsdm.data.tokenizer import Tokenizer

_ENCODED_AT_ONCE = 1000


@dataclass(frozen=True)
class EncodedExample:
    """An example and the row that a model reads for it."""

    example: TargetExample
    tokens: np.ndarray
    answer_start: int
    is_cut: bool = False
    """Whether the context lost its beginning."""


def cut_texts(
    texts: Iterable[tuple[str, str]], tokenizer: "Tokenizer", row_tokens: int
) -> Iterator[EncodedExample]:
    """Rows of `row_tokens` of each path's text, in which every token counts.

    A character of several tokens that two rows share reads as U+FFFD in the examples' texts.
    """
    for path, text in texts:
        tokens = tokenizer.encode_batch([text])[0]
        # A last row of one token has no prediction, so it is left out.
        for start in range(0, len(tokens) - 1, row_tokens):
            row = tokens[start : start + row_tokens]
            row_text = tokenizer.decode(row)
            where = f"{path}: row {start // row_tokens}"
            yield EncodedExample(TargetExample("", row_text, where, row_text), row, 1)


def encode_examples(
    examples: Sequence[TargetExample], tokenizer: "Tokenizer", row_tokens: int
) -> Iterator[EncodedExample]:
    """`examples` with tokens; one DataError for all that don't fit a row."""
    pairs = (
        (example, tokens, answer_start)
        for start in range(0, len(examples), _ENCODED_AT_ONCE)
        for example, (tokens, answer_start) in zip(
            examples[start : start + _ENCODED_AT_ONCE],
            encode_pairs(examples[start : start + _ENCODED_AT_ONCE], tokenizer),
            strict=True,
        )
    )
    yield from collect(pairs, lambda pair: _fit_row(*pair, row_tokens=row_tokens))


def encode_pairs(
    examples: Sequence[TargetExample], tokenizer: "Tokenizer"
) -> list[tuple[np.ndarray, int]]:
    """Tokens of context and answer together, and the position of the answer's first token."""
    plain = iter(_encode_plain([example for example in examples if not example.chat], tokenizer))
    return [_encode_chat(one, tokenizer) if one.chat else next(plain) for one in examples]


def _encode_plain(
    examples: Sequence[TargetExample], tokenizer: "Tokenizer"
) -> list[tuple[np.ndarray, int]]:
    # Context and answer are encoded as one text, and the context alone only to find where the
    # answer starts, as lm-eval's `_encode_pair` does: tokens of the two parts glued together
    # occur neither in training nor in lm-eval's scores. Byte-pair tokens carry their space in
    # front (" Paris"), so whitespace that ends a context belongs to the answer's first token.
    prompts = tokenizer.encode_batch([example.context.rstrip() for example in examples])
    wholes = tokenizer.encode_batch([example.context + example.answer for example in examples])
    # Without a context the first token would have no prediction; lm-eval too puts eos there.
    return [
        (whole, len(prompt))
        if len(prompt)
        else (np.concatenate([np.array([tokenizer.eos], whole.dtype), whole]), 1)
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]


def _encode_chat(example: TargetExample, tokenizer: "Tokenizer") -> tuple[np.ndarray, int]:
    """Of a chat the last message alone is the answer."""
    try:
        row = encode_chat(Conversation(example.chat, len(example.chat) - 1), tokenizer)
    except BadRecordError as bad:
        raise DataError(f"{example.where}: {bad.args[0]} ({bad.args[1]!r:.60}).") from bad
    return row.tokens, row.answer_start


def _fit_row(
    example: TargetExample, tokens: np.ndarray, answer_start: int, *, row_tokens: int
) -> EncodedExample:
    """The example in at most `row_tokens` tokens, its context cut on the left."""
    answer_tokens = len(tokens) - answer_start
    if answer_tokens < 1:
        raise DataError(
            f"{example.where}: the answer {example.answer!r:.60} has no token of its own: the "
            "tokenizer joins it to the context's last. Put a delimiter between them."
        )
    if answer_tokens > row_tokens - 1:
        raise DataError(
            f"{example.where}: the answer has {answer_tokens} tokens; a row of {row_tokens} holds "
            f"{row_tokens - 1} and one to predict from. Raise row_tokens or shorten the answer."
        )
    excess = max(len(tokens) - row_tokens, 0)
    return EncodedExample(example, tokens[excess:], answer_start - excess, excess > 0)
