"""What every character is, as bits, for the compiled kernels."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LETTER, NUMBER, SPACE, HAN, SYLLABLE, PUNCTUATION, MARK, SENTENCE_END = (1 << bit for bit in range(8))

# Scripts written without spaces between words: every character counts as a word there.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_CLASSES = (
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (SPACE, r"[\s\p{Z}\x{0B}\x{85}]"),
    (HAN, r"\p{Han}"),
    (SYLLABLE, _UNSPACED),
    (PUNCTUATION, r"[\p{P}\p{S}]"),
    (MARK, r"\p{M}"),
    (SENTENCE_END, r"[.!?。！？…‼⁇⁈⁉。]"),
)


# Blocks of ideographs and syllables, all alike: none has a case, a decomposition into two characters, or a combining
# class. Looking at each of their characters alone would take a second.
_UNIFORM = (range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0xE000, 0xF900), range(0x17000, 0x18D00))
_ASSIGNED = 0x20000  # above it are ideographs, and compatibility ideographs from 0x2F800 on


@cache
def varied_points() -> tuple[int, ...]:
    """Returns the code points that differ from their neighbours in case, form or class; of all others none does."""
    points = [*range(_ASSIGNED), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE0200)]
    return tuple(point for point in points if not any(point in block for block in _UNIFORM))


@cache
def classes() -> npt.NDArray[np.uint8]:
    """Returns the class bits of every code point."""
    # Unicode has assigned no letter, number, space or punctuation mark beyond plane 3.
    points = np.array([point for point in range(0x40000) if not 0xD800 <= point < 0xE000])
    characters = pa.array([chr(point) for point in points.tolist()])
    bits = np.zeros(0x110000, np.uint8)
    for bit, pattern in _CLASSES:
        bits[points[pc.match_substring_regex(characters, pattern).to_numpy(zero_copy_only=False)]] |= np.uint8(bit)
    return bits


@cache
def lower() -> npt.NDArray[np.uint32]:
    """Returns the lower-case form of every code point that has one of a single character, else the code point."""
    table = np.arange(0x110000, dtype=np.uint32)
    for point in varied_points():
        form = chr(point).lower()
        if len(form) == 1:
            table[point] = ord(form)
    return table
