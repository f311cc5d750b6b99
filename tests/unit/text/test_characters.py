"""What is known of characters without looking at each."""

from __future__ import annotations

import unicodedata

from llmyard.text.characters import varied_points


def test_what_is_not_looked_at_is_uniform() -> None:
    seen = set(varied_points())
    rest = [point for point in range(0x110000) if point not in seen and not 0xD800 <= point < 0xE000]
    characters = [chr(point) for point in rest]
    assert not any(character.isspace() or unicodedata.combining(character) for character in characters)
    assert all(unicodedata.is_normalized("NFC", character) for character in characters)
    assert all(character.lower() == character for character in characters)
    assert not any(len(unicodedata.decomposition(character).split()) == 2 for character in characters)
