"""A model's own chat template, so that a model that has learned to converse goes on as it has learned.

What people say is encoded apart from the template's own words: a ``<|im_end|>`` in a message stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import RequestError
from llmyard.tasks.task import BadExample
from llmyard.tokens.tokenizer import Tokenizer

# Private characters that stand for the message of a number while a template is rendered.
_MARK = "\ue000{}\ue001"
# A template that writes today's date would prompt otherwise tomorrow: it writes this one (Llama's own default).
_DATE = "{%- macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
_MARKED = re.compile("\ue000(\\d+)\ue001")


def with_names(template: str, settings: Mapping[str, Any]) -> str:
    """Returns a template that knows by itself the tokens it names (``bos_token`` and the like).

    Args:
        template: Jinja.
        settings: Content of a ``tokenizer_config.json``.
    """
    names = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            names[name] = text
    told = "".join(f"{{%- set {name} = {json.dumps(text, ensure_ascii=False)} %}}" for name, text in names.items())
    return f"{told}{_DATE}{template}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation in tokens.

    Attributes:
        ids: All of it.
        said: For each message where its content begins and ends; None of one that the template leaves out.
    """

    ids: list[int]
    said: list[tuple[int, int] | None]


@dataclass(frozen=True)
class ChatTemplate:
    """How a model reads a conversation.

    Attributes:
        source: Jinja, as ``chat_template`` of transformers.
    """

    source: str

    def prompt(self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> list[int]:
        """Returns the tokens of the messages and of what makes the model answer.

        Raises:
            BadExample: The template does not take such messages.
        """
        return self._rendered(messages, tokenizer, True).ids

    def whole(self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> Rendered:
        """Returns the tokens of a conversation as it stands.

        Raises:
            BadExample: The template does not take such messages.
        """
        return self._rendered(messages, tokenizer, False)

    def check(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raises BadExample if the template does not take such messages."""
        self._text(messages, False)

    def turn_end(self, tokenizer: Tokenizer) -> str:
        """Returns the token that ends an answer.

        Raises:
            RequestError: There is none right behind an answer.
        """
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = self._text(asked, False)
        _, mark, behind = text.rpartition(_MARK.format(1))
        if not mark:
            raise RequestError("the chat template leaves answers out", "give one that writes each message's content")
        found = tokenizer.encode_template(behind)[:1]
        if not found or not tokenizer.is_special(found[0]):
            raise RequestError(
                f"in the chat template an answer ends in {behind[:40]!r}, which is no single token",
                "give `template: llmyard`, or a Jinja template whose answers end in a special token",
            )
        return tokenizer.name_of(found[0])

    def _rendered(self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, asks: bool) -> Rendered:
        text = self._text(messages, asks)
        ids: list[int] = []
        said: list[tuple[int, int] | None] = [None] * len(messages)
        at = 0
        for mark in _MARKED.finditer(text):
            ids += tokenizer.encode_template(text[at : mark.start()])
            number = int(mark[1])
            content = tokenizer.encode(str(messages[number]["content"]).strip())
            said[number] = (len(ids), len(ids) + len(content))
            ids += content
            at = mark.end()
        return Rendered(ids + tokenizer.encode_template(text[at:]), said)

    def _text(self, messages: Sequence[Mapping[str, Any]], asks: bool) -> str:
        """Returns the conversation as the template has it, with marks for what is said."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        marked = [{"role": each["role"], "content": _MARK.format(at)} for at, each in enumerate(messages)]
        try:
            (text,), _ = render_jinja_template([marked], chat_template=self.source, add_generation_prompt=asks)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise BadExample(f"the chat template refuses the conversation: {error}", "mend the turns") from None
        return str(text)
