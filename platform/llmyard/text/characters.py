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
    for point in range(0x20000):
        form = chr(point).lower()
        if len(form) == 1:
            table[point] = ord(form)
    return table
