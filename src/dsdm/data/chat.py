"""Conversations as text in a model's chat template, and where in it the assistant speaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsdm.data.conversations import BadRecordError, Conversation, Message


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's Jinja template, which `transformers` renders in a sandbox."""

    source: str
    special_tokens: Mapping[str, str]
    """What the template may name: `bos_token`, `eos_token`."""

    def render(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """The messages as the model reads them; with `asks`, up to where its answer starts.

        Raises:
            BadRecordError: the template refuses them.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        turns = [{"role": message.role, "content": message.content} for message in messages]
        named: dict[str, Any] = {"chat_template": self.source, "add_generation_prompt": asks}
        try:
            rendered: Any = render_jinja_template([turns], **(named | dict(self.special_tokens)))
        except Exception as error:  # a template may raise whatever Python and Jinja do
            raise BadRecordError(f"the chat template refuses it: {error}", "") from error
        return str(rendered[0][0])


Span = tuple[int, int]
"""Start and end in a text, counted in characters."""


def learned_spans(template: ChatTemplate, chat: Conversation) -> tuple[str, list[Span]]:
    """The chat as text, and the spans of its learned turns, end-of-turn marks included.

    The text ends with the last of them. A turn's span is what its message adds to the template's
    own request for an answer, without whitespace that the template puts behind it.

    Raises:
        BadRecordError: the template refuses the chat, or rewrites a turn when more follow.
    """
    spans = []
    whole = template.render(chat.messages[: chat.learned[-1] + 1])
    for number in chat.learned:
        before = template.render(chat.messages[:number], asks=True)
        after = template.render(chat.messages[: number + 1])
        if not (after.startswith(before) and whole.startswith(after.rstrip())):
            raise BadRecordError(
                f"the chat template rewrites turns: what it makes of turn {number} does not go on "
                "from what it makes of the turns before",
                "",
            )
        spans.append((len(before), len(after.rstrip())))
    return whole[: spans[-1][1]], spans
