"""Characters of several bytes in a byte-level BPE: where words can be cut, and which characters are tokens at once.

Merges only join neighbours to tokens. So a place where no token has the two characters side by side is never crossed,
and both sides are encoded as if alone. And where no token has a *part* of a character beside another one, each
character becomes a token before it meets its neighbours, if it is a token at all: learning found it before any pair
that it is in. So a run of Chinese, which seldom comes twice, is a few characters to look up and a few pairs to merge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmyard.core.compiled import I32, I64, U8, U32, U64, Number, compiled

NO_TOKEN = np.uint32(0xFFFFFFFF)
_POINTS = 0x110000
_FILTER_BITS = 18


class Crossings(NamedTuple):
    """What stands on both sides of the places inside tokens where one character of several bytes meets another.

    Attributes:
        keys: Open-addressed hash set of ``left << 32 | right``: the sides' code points, or where a token holds a part
            of the character only, that part's bytes as a number above all code points; 0 is free.
        made: Id of the token that a key's two characters make when they are merged, or NO_TOKEN.
        filter: A bit for each key's hash, small enough for the fastest cache.
        partial: A bit for each (last byte of the left, first of the right) of keys with a part of a character.
        characters: Id of the token of each code point, or NO_TOKEN; of those of one byte too.
    """

    keys: U64
    made: U32
    filter: U8
    partial: U8
    characters: U32

    @classmethod
    def of(cls, tokens: dict[bytes, int], ranks: I64) -> Crossings:
        """Returns the crossings of a vocabulary.

        Args:
            tokens: Ids by their bytes.
            ranks: For each merge in order the ids of its left part, its right part and what it makes.
        """
        keys: set[int] = set()
        partial = np.zeros(1 << 13, np.uint8)
        for token in tokens:
            place = 0 if token.isascii() else _next_place(token, 0)
            while place:
                start = place - 1
                while start > 0 and 0x80 <= token[start] < 0xC0:
                    start -= 1
                left, right = token[start:place], token[place : place + size_of(token[place])]
                one, other = (_number(side) for side in (left, right))
                if max(one, other) >= _POINTS:
                    bit = left[-1] << 8 | right[0]
                    partial[bit >> 3] |= np.uint8(1 << (bit & 7))
                keys.add(one << 32 | other)
                place = _next_place(token, place)
        size = 1 << max(4, (2 * len(keys)).bit_length())
        crossings = cls(
            np.zeros(size, np.uint64), np.full(size, NO_TOKEN), np.zeros(1 << (_FILTER_BITS - 3), np.uint8), partial,
            np.full(_POINTS, NO_TOKEN),
        )  # fmt: skip
        _fill(crossings, np.array(sorted(keys), np.uint64))
        if _made_in_order(ranks, 1 + max(tokens.values())):
            points = np.full(1 + max(tokens.values()), -1)
            for token, id_ in tokens.items():
                if len(token) <= 4 and (number := _number(token)) < _POINTS:
                    points[id_] = number
                    crossings.characters[number] = id_
            _note_merges(crossings, ranks, points)
        return crossings


def _next_place(token: bytes, place: int) -> int:
    """Returns the next place of a token between two characters of several bytes; 0 if there is none."""
    for at in range(place + 1, len(token)):
        if token[at] >= 0xC0 and token[at - 1] >= 0x80:
            return at
    return 0


def _number(part: bytes) -> int:
    """Returns the code point of a whole character; of anything else a number above all code points, below 2**32."""
    try:
        text = part.decode()
    except UnicodeDecodeError:
        text = ""
    return ord(text) if len(text) == 1 else of_part(int.from_bytes(part[-4:], "big"), len(part))


@compiled
def of_part(part: Number, size: Number) -> Number:
    """Returns the number that stands for some bytes of a character, above all code points."""
    return (part & 0xFFFFFF) | (0x40000000 << (size & 1)) | (0x10000000 << (size >> 1))


def _made_in_order(ranks: I64, size: int) -> bool:
    """Returns whether each token is made by merges that all come before those it is a part of."""
    order = np.arange(len(ranks))
    last = np.full(size, -1)
    np.maximum.at(last, ranks[:, 2], order)
    return bool((last[ranks[:, :2]] <= order[:, None]).all())


@compiled
def size_of(first: Number) -> Number:
    """Returns how many bytes the character has that begins with this byte."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@compiled
def _mixed(key: Number) -> Number:
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


@compiled
def _fill(crossings: Crossings, keys: U64) -> None:
    mask = np.uint64(len(crossings.keys) - 1)
    for key in keys:
        mixed = _mixed(key)
        bit = mixed >> np.uint64(64 - _FILTER_BITS)
        crossings.filter[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
        at = mixed & mask
        while crossings.keys[at] != 0:
            at = (at + np.uint64(1)) & mask
        crossings.keys[at] = key


@compiled
def _note_merges(crossings: Crossings, ranks: I64, points: I64) -> None:
    for rank in range(len(ranks) - 1, -1, -1):  # of equal pairs the first merge counts
        left, right = points[ranks[rank, 0]], points[ranks[rank, 1]]
        if left >= 0 and right >= 0:
            slot = slot_of(left, right, crossings)
            if slot >= 0:
                crossings.made[slot] = np.uint32(ranks[rank, 2])


@compiled
def slot_of(left: Number, right: Number, crossings: Crossings) -> Number:
    """Returns where two stand that some token has side by side, code points or parts of characters; -1 for others."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    mixed = _mixed(key)
    bit = mixed >> np.uint64(64 - _FILTER_BITS)
    if not crossings.filter[bit >> np.uint64(3)] & np.uint8(1 << (bit & np.uint64(7))):
        return np.int64(-1)
    mask = np.uint64(len(crossings.keys) - 1)
    at = mixed & mask
    while crossings.keys[at] != 0:
        if crossings.keys[at] == key:
            return np.int64(at)
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@compiled
def meet_in_part(
    data: U8, start: Number, place: Number, stop: Number, left: Number, right: Number, crossings: Crossings
) -> bool:
    """Returns whether some token has parts of the two characters side by side that meet at ``place``."""
    beginning = np.int64(0)
    for left_size in range(1, place - start + 1):
        beginning |= np.int64(data[place - left_size]) << (8 * (left_size - 1))
        one = left if left_size == place - start else of_part(beginning, left_size)
        end = np.int64(0)
        for right_size in range(1, stop - place + 1):
            end = (end << 8) | np.int64(data[place + right_size - 1])
            other = right if right_size == stop - place else of_part(end, right_size)
            if slot_of(one, other, crossings) >= 0:
                return True
    return False


@compiled
def next_piece(data: U8, at: Number, end: Number, crossings: Crossings, ids: U32, count: I32) -> Number:
    """Returns where the piece ends that begins at ``at`` of the word that ends at ``end``.

    Args:
        data: Valid UTF-8.
        at: Where the piece begins.
        end: Where the word ends.
        crossings: Of the vocabulary.
        ids: Filled with the piece's tokens: all of one or two characters, else one a character, to be merged.
        count: Of one element: their number, or 0 where the piece must be merged byte by byte.
    """
    characters = crossings.characters
    start, before = at, np.int64(-1)
    whole, found, made = True, 0, np.uint32(NO_TOKEN)
    while at < end:
        first = np.int64(data[at])
        if first < 0x80:
            point, size = first, 1
        elif first < 0xE0:
            point, size = ((first & 0x1F) << 6) | np.int64(data[at + 1] & 0x3F), 2
        elif first < 0xF0:
            point, size = ((first & 0x0F) << 12) | np.int64(data[at + 1] & 0x3F) << 6 | np.int64(data[at + 2] & 0x3F), 3
        else:
            high = ((first & 0x07) << 18) | np.int64(data[at + 1] & 0x3F) << 12
            point, size = high | np.int64(data[at + 2] & 0x3F) << 6 | np.int64(data[at + 3] & 0x3F), 4
        if before >= 0:
            if size == 1 or before < 0x80:
                whole = False
            else:
                bit = np.int64(data[at - 1]) << 8 | first
                parts = (crossings.partial[bit >> 3] & np.uint8(1 << (bit & 7))) != 0
                slot = slot_of(before, point, crossings)
                if slot < 0 and not (parts and meet_in_part(data, start, at, at + size, before, point, crossings)):
                    break
                made = np.uint32(crossings.made[slot] if slot >= 0 else NO_TOKEN)
                whole = whole and not parts
        id_ = characters[point]
        whole = whole and id_ != NO_TOKEN and found < len(ids)
        if whole:
            ids[found] = id_
            found += 1
        before, start = point, at
        at += size
    if whole and found == 2 and made != NO_TOKEN:
        ids[0] = made
        found = 1
    count[0] = found if whole else 0
    return at
