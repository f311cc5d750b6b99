"""How much of a text is made of repeated n-grams (Rae et al. 2021, appendix A.1.1), whole columns at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmyard.core.compiled import F64, I32, I64, U64, Bools, Number, compiled
from llmyard.text.units import Units

TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)
# A Chinese word has about two characters, and a unit is a character there.
UNITS_OF_A_WORD = 2
_BASE = np.uint64(0x9E3779B97F4A7C15)


def exceeds(
    units: Units, characters: F64, unspaced: Bools, top: Sequence[float], repeated: Sequence[float]
) -> tuple[I64, I64]:
    """Returns for every text the first n whose n-grams repeat too much, 0 where none does: for the most frequent
    n-gram (n = 2, 3, 4), and for all that stood in the text before (n = 5 to 10).

    Args:
        units: The texts.
        characters: Characters of each text.
        unspaced: Whether a text is of a script without spaces: its n-grams are twice as long in units.
        top: Largest share of characters in occurrences of the most frequent 2-, 3- and 4-gram.
        repeated: Largest share of characters in repeated 5- to 10-grams, each character counted once.
    """
    limits = np.asarray(top, np.float64), np.asarray(repeated, np.float64)
    return _exceeds(units.hashes, units.characters, units.offsets, characters, unspaced, *limits)


@compiled
def _exceeds(
    hashes: U64, sizes: I32, offsets: I64, characters: F64, unspaced: Bools, top: F64, repeated: F64
) -> tuple[I64, I64]:
    texts = len(offsets) - 1
    too_top, too_repeated = np.zeros(texts, np.int64), np.zeros(texts, np.int64)
    longest = 0
    for text in range(texts):
        longest = max(longest, offsets[text + 1] - offsets[text])
    room = 16
    while room < 2 * longest:
        room *= 2
    keys, counts = np.zeros(room, np.uint64), np.zeros(room, np.int32)
    sums = np.empty(longest + 1, np.uint64)
    for text in range(texts):
        low, high = offsets[text], offsets[text + 1]
        scale = UNITS_OF_A_WORD if unspaced[text] else 1
        used = 16
        while used < 2 * (high - low):
            used *= 2
        _add_up(hashes[low:high], sums)
        for order in range(len(top)):
            n = (order + 2) * scale
            if high - low < n:
                break
            most = _most_frequent(sums, sizes[low:high], n, scale == 1, keys[:used], counts[:used])
            if most > top[order] * characters[text]:
                too_top[text] = order + 2
                break
        least = repeated[len(repeated) - 1]
        for order in range(len(repeated)):
            n = (order + 5) * scale
            if high - low < n:
                break
            again = _repeated(sums, sizes[low:high], n, keys[:used])
            if again > repeated[order] * characters[text]:
                too_repeated[text] = order + 5
                break
            # Windows of a repeated longer n-gram are repeated 5-grams, so few of these leave nothing to look for.
            if order == 0 and 2 * again <= least * characters[text]:
                break
    return too_top, too_repeated


@compiled
def _add_up(hashes: U64, sums: U64) -> None:
    """Fills in a polynomial of each beginning, so that the one of any n-gram is a difference of two."""
    sums[0] = np.uint64(0)
    for at in range(len(hashes)):
        sums[at + 1] = sums[at] * _BASE + hashes[at]


@compiled
def _power(n: int) -> Number:
    power = np.uint64(1)
    for _ in range(n):
        power *= _BASE
    return power


@compiled
def _most_frequent(sums: U64, sizes: I32, n: int, spaced: bool, keys: U64, counts: I32) -> Number:
    """Returns the characters of all occurrences of the n-gram that covers most, where it occurs more than once."""
    keys[:] = np.uint64(0)
    mask = np.uint64(len(keys) - 1)
    power = _power(n)
    most = np.int64(0)
    size = np.int64(0)
    for at in range(n - 1):
        size += sizes[at]
    for at in range(len(sizes) - n + 1):
        size += sizes[at + n - 1]
        value = (sums[at + n] - sums[at] * power) * np.uint64(0xFF51AFD7ED558CCD) | np.uint64(1)
        slot = (value >> np.uint64(32)) & mask
        while keys[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot], counts[slot] = value, 0
        counts[slot] += 1
        if counts[slot] > 1:
            most = max(most, counts[slot] * (size + (n - 1 if spaced else 0)))
        size -= sizes[at]
    return most


@compiled
def _repeated(sums: U64, sizes: I32, n: int, keys: U64) -> Number:
    """Returns the characters in n-grams that stood in the text before; after one it goes on behind it."""
    keys[:] = np.uint64(0)
    mask = np.uint64(len(keys) - 1)
    power = _power(n)
    total = np.int64(0)
    at = 0
    while at <= len(sizes) - n:
        value = (sums[at + n] - sums[at] * power) * np.uint64(0xFF51AFD7ED558CCD) | np.uint64(1)
        slot = (value >> np.uint64(32)) & mask
        while keys[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == value:
            for index in range(n):
                total += sizes[at + index]
            at += n
        else:
            keys[slot] = value
            at += 1
    return total
