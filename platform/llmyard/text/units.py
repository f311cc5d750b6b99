"""Texts as sequences of units: words, and single characters where a script has no spaces between words.

All that counts, compares or repeats (quality rules, near duplicates, overlap with test sets) works on these units, so
one definition serves Chinese, English and texts that mix them: five units are five English words or five characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmyard.core.columns import buffers_of
from llmyard.core.compiled import I32, I64, U8, U32, U64, Bools, Number, compiled
from llmyard.text import characters
from llmyard.text.characters import LETTER, MARK, NUMBER, SYLLABLE


@dataclass(frozen=True, slots=True)
class Units:
    """The units of many texts, one after the other.

    Attributes:
        hashes: 64 bits that stand for each unit, letters in lower case.
        characters: Characters of each unit.
        offsets: Where each text's units begin (one more than texts).
    """

    hashes: U64
    characters: I32
    offsets: I64

    def filter(self, keep: Bools) -> Units:
        """Returns the units of the chosen texts."""
        lengths = np.diff(self.offsets)
        chosen = np.repeat(keep, lengths)
        return Units(self.hashes[chosen], self.characters[chosen], np.append(0, np.cumsum(lengths[keep])))


def units_of(texts: Any) -> Units:
    """Returns the units of a string column.

    A unit is a character of a script without spaces (Chinese, Japanese kana, Thai ...), or a run of letters, digits and
    combining marks; an apostrophe inside a word does not end it. All else separates.
    """
    data, offsets = buffers_of(texts)
    room = int(offsets[-1] - offsets[0]) // 2 + len(offsets)
    hashes, sizes = np.empty(room, np.uint64), np.empty(room, np.int32)
    ends = _units(data, offsets, characters.classes(), characters.lower(), hashes, sizes)
    return Units(hashes[: ends[-1]], sizes[: ends[-1]], ends)


@compiled
def decode(data: U8, at: Number, end: Number) -> tuple[Number, Number]:
    """Returns code point and byte length of the character at ``at``; bytes that are no UTF-8 count one by one."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, np.int64(1)
    if first < 0xE0 and at + 1 < end:
        return ((first & 0x1F) << 6) | (data[at + 1] & 0x3F), np.int64(2)
    if first < 0xF0 and at + 2 < end:
        return ((first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), np.int64(3)
    if at + 3 < end:
        high = ((first & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
        return high | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), np.int64(4)
    return np.int64(0xFFFD), np.int64(1)


@compiled
def mix(value: Number) -> Number:
    """Returns 64 bits of which each depends on each of the input's (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled
def _units(data: U8, offsets: I64, classes: U8, lower: U32, hashes: U64, sizes: I32) -> I64:
    ends = np.zeros(len(offsets), np.int64)
    count = 0
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        inside, value, size = False, np.uint64(0), np.int32(0)
        while at < end:
            point, length = decode(data, at, end)
            at += length
            bits = classes[point]
            if bits & (LETTER | NUMBER | MARK | SYLLABLE):
                if bits & SYLLABLE:
                    if inside:
                        hashes[count], sizes[count] = mix(value), size
                        count += 1
                        inside = False
                    hashes[count], sizes[count] = mix(np.uint64(point) + np.uint64(0x51ED270B)), np.int32(1)
                    count += 1
                    continue
                if not inside:
                    inside, value, size = True, np.uint64(0xCBF29CE484222325), np.int32(0)
                value = (value ^ np.uint64(lower[point])) * np.uint64(0x9E3779B97F4A7C15)
                value ^= value >> np.uint64(32)
                size += np.int32(1)
            elif inside and point != 0x27 and point != 0x2019:
                hashes[count], sizes[count] = mix(value), size
                count += 1
                inside = False
        if inside:
            hashes[count], sizes[count] = mix(value), size
            count += 1
        ends[document + 1] = count
    return ends
