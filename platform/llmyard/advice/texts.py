"""Reasons in words, in the user's language or a given one."""

from __future__ import annotations

from pathlib import Path

from llmyard.advice.reasons import Reason, Word
from llmyard.core.language import Messages, UserLanguage, user_language

say = Messages(Path(__file__).with_name("texts.yaml"))


def said(reason: Reason, language: UserLanguage | None = None) -> str:
    """Returns a reason as a sentence."""
    say_so = say.in_language(language or user_language())
    values = {name: say_so(str(value)) if isinstance(value, Word) else value for name, value in reason.values.items()}
    return say_so(reason.key, **values)
