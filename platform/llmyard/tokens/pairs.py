"""Pairs of neighbouring ids and their merges, compiled: what turns the bytes of a word into the ids of a BPE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmyard.core.compiled import I32, I64, U8, U32, U64, Number, compiled

# A word longer than this is merged with a heap: looking for the best pair anew would be quadratic in its length.
SCAN_LIMIT = 64
NO_PAIR = np.int64(1 << 62)
_NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
_FILTER_BITS = 18


class Pairs(NamedTuple):
    """An open-addressed hash table from two neighbouring ids to ``rank << 32 | new id``.

    Attributes:
        keys: ``left << 32 | right``, or _NO_KEY.
        values: Of the same places.
        filter: A bit for each of the keys' hashes, small enough for the fastest cache: most neighbours are no pair.
    """

    keys: U64
    values: I64
    filter: U8

    @classmethod
    def of(cls, keys: U64, made: I64) -> Pairs:
        """Returns the table of pairs in the order of their merges."""
        size = 1 << max(4, (4 * len(keys)).bit_length())
        pairs = cls(np.full(size, _NO_KEY), np.zeros(size, np.int64), np.zeros(1 << (_FILTER_BITS - 3), np.uint8))
        _fill(pairs, keys, (np.arange(len(keys), dtype=np.int64) << 32) | made)
        return pairs


@compiled
def _mixed(key: Number) -> Number:
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


@compiled
def _fill(pairs: Pairs, keys: U64, given: I64) -> None:
    mask = np.uint64(len(pairs.keys) - 1)
    for index in range(len(keys)):
        mixed = _mixed(keys[index])
        bit = mixed >> np.uint64(64 - _FILTER_BITS)
        pairs.filter[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
        at = mixed & mask
        while pairs.keys[at] != _NO_KEY and pairs.keys[at] != keys[index]:
            at = (at + np.uint64(1)) & mask
        if pairs.keys[at] == _NO_KEY:  # of equal pairs the first merge counts
            pairs.keys[at], pairs.values[at] = keys[index], given[index]


@compiled
def pair_of(left: Number, right: Number, pairs: Pairs) -> Number:
    """Returns ``rank << 32 | new id`` of two neighbours, or NO_PAIR."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    mixed = _mixed(key)
    bit = mixed >> np.uint64(64 - _FILTER_BITS)
    if not pairs.filter[bit >> np.uint64(3)] & np.uint8(1 << (bit & np.uint64(7))):
        return NO_PAIR
    mask = np.uint64(len(pairs.keys) - 1)
    at = mixed & mask
    while pairs.keys[at] != _NO_KEY:
        if pairs.keys[at] == key:
            return pairs.values[at]
        at = (at + np.uint64(1)) & mask
    return NO_PAIR


@compiled
def merge_short(ids: U32, first: Number, length: Number, pairs: Pairs, scratch: I32) -> int:
    """Merges the pair of lowest rank, the leftmost first, until none is left; returns how many ids remain.

    The ids are those from ``first`` on; ``scratch`` has shape (4, SCAN_LIMIT).

    Places stay where they are and are linked; a key is ``rank << 6 | place``, so that the least of them, which the
    processor finds sixteen at a time, is the next to merge.
    """
    keys, made, following, previous = scratch[0], scratch[1], scratch[2], scratch[3]
    ids = ids[first:]
    none = np.int32(0x7FFFFFFF)
    for at in range(length):
        following[at], previous[at], keys[at] = at + 1, at - 1, none
    for at in range(length - 1):
        found = pair_of(ids[at], ids[at + 1], pairs)
        if found != NO_PAIR:
            keys[at], made[at] = np.int32((found >> 32) << 6 | at), np.int32(found & 0xFFFFFFFF)
    while True:
        least = none
        for at in range(length):
            least = min(least, keys[at])
        if least == none:
            break
        at = int(least & 63)
        ids[at] = np.uint32(made[at])
        gone = following[at]
        after = following[gone]
        keys[at] = keys[gone] = none
        following[at] = after
        if after < length:
            previous[after] = at
            found = pair_of(ids[at], ids[after], pairs)
            if found != NO_PAIR:
                keys[at], made[at] = np.int32((found >> 32) << 6 | at), np.int32(found & 0xFFFFFFFF)
        before = previous[at]
        if before >= 0:
            found = pair_of(ids[before], ids[at], pairs)
            keys[before] = none
            if found != NO_PAIR:
                keys[before], made[before] = np.int32((found >> 32) << 6 | before), np.int32(found & 0xFFFFFFFF)
    count, at = 0, 0
    while at < length:
        ids[count] = ids[at]
        count += 1
        at = following[at]
    return count


@compiled
def merge_long(ids: U32, length: int, pairs: Pairs) -> int:
    """As :func:`merge_short`, in O(n log n): a heap of pairs over a linked list."""
    following = np.arange(1, length + 1)
    previous = np.arange(-1, length - 1)
    states = np.full(length, NO_PAIR, np.int64)
    ranks, places = np.empty(3 * length, np.int64), np.empty(3 * length, np.int64)
    size = 0
    for at in range(length - 1):
        states[at] = pair_of(ids[at], ids[at + 1], pairs)
        if states[at] != NO_PAIR:
            size = _push(ranks, places, size, states[at], at)
    while size > 0:
        found, at = ranks[0], places[0]
        size = _pop(ranks, places, size)
        if states[at] != found:  # it has changed since
            continue
        ids[at] = np.uint32(found & 0xFFFFFFFF)
        gone = following[at]
        states[gone] = NO_PAIR
        after = following[gone]
        following[at] = after
        states[at] = NO_PAIR
        if after < length:
            previous[after] = at
            states[at] = pair_of(ids[at], ids[after], pairs)
            if states[at] != NO_PAIR:
                size = _push(ranks, places, size, states[at], at)
        before = previous[at]
        if before >= 0:
            states[before] = pair_of(ids[before], ids[at], pairs)
            if states[before] != NO_PAIR:
                size = _push(ranks, places, size, states[before], before)
    count, at = 0, 0
    while at < length:
        ids[count] = ids[at]
        count += 1
        at = following[at]
    return count


@compiled
def _push(ranks: I64, places: I64, size: int, rank: Number, place: Number) -> int:
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if ranks[above] < rank or (ranks[above] == rank and places[above] <= place):
            break
        ranks[at], places[at] = ranks[above], places[above]
        at = above
    ranks[at], places[at] = rank, place
    return size + 1


@compiled
def _pop(ranks: I64, places: I64, size: int) -> int:
    size -= 1
    rank, place = ranks[size], places[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        right = below + 1
        if right < size and (
            ranks[right] < ranks[below] or (ranks[right] == ranks[below] and places[right] < places[below])
        ):
            below = right
        if ranks[below] > rank or (ranks[below] == rank and places[below] >= place):
            break
        ranks[at], places[at] = ranks[below], places[below]
        at = below
    ranks[at], places[at] = rank, place
    return size
