"""The language that tables, help and pages are shown in."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

UserLanguage = Literal["en", "zh"]


def user_language() -> UserLanguage:
    """Returns "zh" or "en": ``LLMYARD_LANG`` if set, else by the locale."""
    for name in ("LLMYARD_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@cache
def _messages(file: Path) -> dict[str, dict[str, str]]:
    import yaml

    messages: dict[str, dict[str, str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return messages


class Messages:
    """The texts of a YAML file, ``key: {en: ..., zh: ...}``, in the user's language."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, key: str, /, **values: object) -> str:
        """Returns a text with its ``{placeholders}`` filled."""
        return _messages(self._file)[key][user_language()].format(**values)

    def __contains__(self, key: object) -> bool:
        """Returns whether there is a text for a key."""
        return key in _messages(self._file)

    def in_language(self, language: UserLanguage) -> Callable[..., str]:
        """Returns the same for a given language."""
        return lambda key, **values: _messages(self._file)[key][language].format(**values)
