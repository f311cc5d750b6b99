"""Which script a single text is in, by its letters alone: quick, for prompts and answers."""

from __future__ import annotations

from typing import Literal

_HAN_SHARE = 1 / 3


def mostly_chinese(text: str) -> bool:
    """Returns whether at least a third of a text's letters are Chinese characters."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return han >= _HAN_SHARE * max(1, sum(character.isalpha() for character in text))


def language_by_script(text: str) -> Literal["en", "zh"]:
    """Returns the language that a text is taken for where none is named."""
    return "zh" if mostly_chinese(text) else "en"
