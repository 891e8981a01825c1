"""Conversations: chat messages, or a prompt and its completion, as records of a pool hold them.

What is learned of one is what an assistant says: each of its turns, or, where the record keeps
prompt and completion apart, the completion alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from dsdm.data.formats import excerpt_of

ASSISTANT = "assistant"


class BadRecordError(Exception):
    """A record that can't be used: the reason, whose kind ends at a colon, and an excerpt."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A chat in `messages`, or plain text in `prompt` and `completion`."""

    messages: tuple[Message, ...] = ()
    num_prompt: int = 0
    """So many messages at the start are given, whoever says them."""
    prompt: str = ""
    completion: str = ""

    @property
    def learned(self) -> list[int]:
        """Positions of the messages that are learned."""
        return [
            number
            for number, message in enumerate(self.messages)
            if number >= self.num_prompt and message.role == ASSISTANT
        ]

    @property
    def content(self) -> bytes:
        """What tells two conversations apart."""
        turns = [[message.role, message.content] for message in self.messages]
        return msgspec.json.encode([turns, self.num_prompt, self.prompt, self.completion])

    @property
    def text(self) -> str:
        """All that is said, without who says it."""
        return "\n".join([*(m.content for m in self.messages), self.prompt + self.completion])


def parse_conversation(
    record: Mapping[str, Any], messages: str, prompt: str, completion: str
) -> Conversation:
    """The conversation in the named columns of a record: `messages`, or else the other two.

    Prompt and completion are both text, or both lists of messages.

    Raises:
        BadRecordError: it is none that something can be learned of.
    """
    if record.get(messages) is not None:
        return _chat(_messages(record[messages], messages), 0)
    first, second = (_plain(record.get(name)) for name in (prompt, completion))
    for name, value in ((prompt, first), (completion, second)):
        if value is None:
            raise BadRecordError(f"null {name}", "")
    if isinstance(first, str) and isinstance(second, str):
        if not second.strip():
            raise BadRecordError("empty completion", excerpt_of(first))
        return Conversation(prompt=first, completion=second)
    given = _messages(first, prompt)
    return _chat((*given, *_messages(second, completion)), len(given))


def _chat(messages: tuple[Message, ...], num_prompt: int) -> Conversation:
    chat = Conversation(messages, num_prompt)
    if not chat.learned:
        roles = ", ".join(message.role for message in messages)
        raise BadRecordError("no assistant turn", f"roles: {roles}")
    if any(not messages[number].content.strip() for number in chat.learned):
        raise BadRecordError("empty assistant turn", excerpt_of(chat.text))
    return chat


def _messages(value: object, column: str) -> tuple[Message, ...]:
    if isinstance(value, np.ndarray) or not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRecordError(f"{column} is not a list of messages", excerpt_of(value))
    return tuple(_message(item, number) for number, item in enumerate(value))


def _message(item: object, number: int) -> Message:
    if not isinstance(item, Mapping):
        raise BadRecordError(f"a message that is no object: number {number}", excerpt_of(item))
    found = {name: _plain(item.get(name)) for name in ("role", "content")}
    for name, value in found.items():
        if not isinstance(value, str) or (name == "role" and not value.strip()):
            raise BadRecordError(f"a message without {name}: number {number}", excerpt_of(item))
    return Message(**found)


def _plain(value: Any) -> Any:
    """Text that was not checked to be UTF-8 yet, as text."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # JSON can hold half a surrogate pair
    except UnicodeError:
        raise BadRecordError("invalid UTF-8", excerpt_of(value)) from None
    return value
