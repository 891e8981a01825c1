"""Conversations as rows of tokens in which what the assistant says counts."""

from collections.abc import Sequence

import numpy as np

from dsdm.data.chat import learned_spans
from dsdm.data.conversations import BadRecordError, Conversation
from dsdm.data.sequences import Row
from dsdm.data.tokenizer import Tokenizer


def encode_conversations(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, row_tokens: int
) -> list[Row | BadRecordError]:
    """One row for each conversation, or why there is none.

    A row ends with the last token that counts: what stands behind it would teach nothing.

    Raises:
        ModelError: there is a chat, and the tokenizer has no chat template.
    """
    return [_checked(conversation, tokenizer, row_tokens) for conversation in conversations]


def encode_chat(chat: Conversation, tokenizer: Tokenizer) -> Row:
    """The row of a chat, however long.

    Raises:
        BadRecordError: the template refuses it, or a message holds a special token.
        ModelError: the tokenizer has no chat template.
    """
    template = tokenizer.chat
    _refuse_marks(chat, tokenizer)
    text, spans = learned_spans(template, chat)
    tokens, starts, ends = tokenizer.encode_marked(text)
    counted = np.zeros(len(tokens), bool)
    for first, last in spans:
        counted |= (starts >= first) & (starts < last) & (ends > starts)
    counted[:1] = False  # the first token has no prediction
    if not counted.any():
        raise BadRecordError("no token of its own in an assistant turn", text[-80:])
    end = int(np.flatnonzero(counted)[-1]) + 1
    return Row(tokens[:end], int(np.argmax(counted)), counted[:end])


def _checked(
    conversation: Conversation, tokenizer: Tokenizer, row_tokens: int
) -> Row | BadRecordError:
    try:
        is_chat = bool(conversation.messages)
        row = (encode_chat if is_chat else _encode_plain)(conversation, tokenizer)
    except BadRecordError as bad:
        return bad
    if len(row.tokens) > row_tokens:
        return BadRecordError(
            f"longer than a row: {len(row.tokens)} tokens, `examples.row_tokens` is {row_tokens}",
            conversation.text[:80],
        )
    return row


def _encode_plain(conversation: Conversation, tokenizer: Tokenizer) -> Row:
    """Prompt, completion and the end-of-text token; the completion and the last count."""
    prompt, whole = tokenizer.encode_batch(
        [conversation.prompt.rstrip(), conversation.prompt + conversation.completion]
    )
    eos = np.array([tokenizer.eos], np.int32)
    if len(whole) <= len(prompt):
        reason = "the completion has no token of its own: the tokenizer joins it to the prompt"
        raise BadRecordError(reason, conversation.completion[:80])
    # Without a prompt the first token would have no prediction, as with targets.
    start = [] if len(prompt) else [eos]
    tokens = np.concatenate([*start, whole, eos])
    first = max(len(prompt), 1)
    return Row(tokens, first, np.arange(len(tokens)) >= first)


def _refuse_marks(chat: Conversation, tokenizer: Tokenizer) -> None:
    """Raises BadRecordError where a message would forge what only the template may write."""
    for message in chat.messages:
        for mark in tokenizer.marks:
            if mark in message.content:
                raise BadRecordError(
                    f"a message holds a special token: {mark}", message.content[:80]
                )
