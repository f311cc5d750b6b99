"""Byte-level BPE compiled to machine code: the ids of Hugging Face's ``tokenizers``, many times faster.

A word (what the pattern of ``tokenizer.py`` splits off) is looked up in a table of words met before; only a new one is
merged. Nothing is split or merged in Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Regex, pre_tokenizers

from llmyard.core.compiled import I16, I64, U8, U32, U64, Number, compiled

LETTER, NUMBER, SPACE, HAN = 1, 2, 4, 8
_CLASSES = ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+"), (HAN, r"\p{Han}+"))

# A word longer than this is merged with a heap: looking for the best pair anew would be quadratic in its length.
_SCAN_LIMIT = 64
_NO_PAIR = np.int64(1 << 62)
_NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
_CACHED_WORDS = 1 << 20
_CACHED_LENGTH = 24  # bytes; longer ones, such as runs of Chinese, seldom come again
_FILTER_BITS = 18


@cache
def character_classes() -> U8:
    """Returns the class bits of every code point, as the regular expressions of ``tokenizers`` see them."""
    # Unicode has assigned no letter, number, space or Chinese character beyond plane 3.
    points = np.array([point for point in range(0x40000) if not 0xD800 <= point < 0xE000], np.int64)
    everything = "".join(map(chr, points.tolist()))
    classes = np.zeros(0x110000, np.uint8)
    for bit, pattern in _CLASSES:
        outside = pre_tokenizers.Split(Regex(pattern), behavior="removed").pre_tokenize_str(everything)
        inside = np.ones(len(points), bool)
        for _, (low, high) in outside:
            inside[low:high] = False
        classes[points[inside]] |= bit
    return classes


class CompiledBpe:
    """Encodes whole Arrow string columns.

    Args:
        tokenizer_json: Content of the ``tokenizer.json`` of a tokenizer that ``Tokenizer.train`` made.
        split_han: Whether every Chinese character is a word of its own.
    """

    def __init__(self, tokenizer_json: str, split_han: bool) -> None:
        model: dict[str, Any] = json.loads(tokenizer_json)["model"]
        vocabulary: dict[str, int] = model["vocab"]
        alphabet = byte_characters()
        self._of_byte = np.array([vocabulary[alphabet[byte]] for byte in range(256)], np.uint32)
        merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
        left = np.array([vocabulary[pair[0]] for pair in merges], np.uint64)
        right = np.array([vocabulary[pair[1]] for pair in merges], np.uint64)
        made = np.array([vocabulary[pair[0] + pair[1]] for pair in merges], np.int64)
        self._pairs = Pairs.of((left << np.uint64(32)) | right, made)
        self._classes = character_classes()
        self._split_han = split_han
        slots = 2 * _CACHED_WORDS
        self._cache = _Cache(
            np.zeros(slots, np.uint64), np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int16),
            np.zeros(slots, np.int16), np.zeros(_CACHED_WORDS * 8, np.uint8), np.zeros(_CACHED_WORDS * 4, np.uint32),
            np.zeros(3, np.int64),
        )  # fmt: skip

    def encode(self, texts: Any) -> tuple[U32, I64]:
        """Returns the ids of all texts in a row, and where each text's begin (one more offset than texts).

        Args:
            texts: An Arrow array or chunked array of strings without nulls.
        """
        from llmyard.core.columns import buffers_of

        data, offsets = buffers_of(texts)
        ids = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
        cache = self._cache
        ends = _encode(
            data, offsets, self._classes, self._of_byte, self._pairs, self._split_han, ids,
            cache.hashes, cache.words, cache.tokens, cache.lengths, cache.counts, cache.bytes, cache.ids, cache.used,
        )  # fmt: skip
        return ids[: ends[-1]].copy(), ends


@dataclass(frozen=True, slots=True)
class _Cache:
    hashes: U64
    words: I64
    tokens: I64
    lengths: I16
    counts: I16
    bytes: U8
    ids: U32
    used: I64


def byte_characters() -> list[str]:
    """Returns the character that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


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
def _pair(left: Number, right: Number, pairs: Pairs) -> Number:
    """Returns ``rank << 32 | new id`` of two neighbours, or _NO_PAIR."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    mixed = _mixed(key)
    bit = mixed >> np.uint64(64 - _FILTER_BITS)
    if not pairs.filter[bit >> np.uint64(3)] & np.uint8(1 << (bit & np.uint64(7))):
        return _NO_PAIR
    mask = np.uint64(len(pairs.keys) - 1)
    at = mixed & mask
    while pairs.keys[at] != _NO_KEY:
        if pairs.keys[at] == key:
            return pairs.values[at]
        at = (at + np.uint64(1)) & mask
    return _NO_PAIR


@compiled
def _merge_short(ids: U32, length: int, pairs: Pairs) -> int:
    """Merges the pair of lowest rank, the leftmost first, until none is left; returns how many ids remain.

    Places stay where they are and are linked; a key is ``rank << 6 | place``, so that the least of them, which the
    processor finds sixteen at a time, is the next to merge.
    """
    keys, made = np.empty(_SCAN_LIMIT, np.int32), np.empty(_SCAN_LIMIT, np.uint32)
    following, previous = np.empty(_SCAN_LIMIT, np.int32), np.empty(_SCAN_LIMIT, np.int32)
    none = np.int32(0x7FFFFFFF)
    for at in range(length):
        following[at], previous[at], keys[at] = at + 1, at - 1, none
    for at in range(length - 1):
        found = _pair(ids[at], ids[at + 1], pairs)
        if found != _NO_PAIR:
            keys[at], made[at] = np.int32((found >> 32) << 6 | at), np.uint32(found & 0xFFFFFFFF)
    while True:
        least = none
        for at in range(length):
            least = min(least, keys[at])
        if least == none:
            break
        at = int(least & 63)
        ids[at] = made[at]
        gone = following[at]
        after = following[gone]
        keys[at] = keys[gone] = none
        following[at] = after
        if after < length:
            previous[after] = at
            found = _pair(ids[at], ids[after], pairs)
            if found != _NO_PAIR:
                keys[at], made[at] = np.int32((found >> 32) << 6 | at), np.uint32(found & 0xFFFFFFFF)
        before = previous[at]
        if before >= 0:
            found = _pair(ids[before], ids[at], pairs)
            keys[before] = none
            if found != _NO_PAIR:
                keys[before], made[before] = np.int32((found >> 32) << 6 | before), np.uint32(found & 0xFFFFFFFF)
    count, at = 0, 0
    while at < length:
        ids[count] = ids[at]
        count += 1
        at = following[at]
    return count


@compiled
def _merge_long(ids: U32, length: int, pairs: Pairs) -> int:
    """As :func:`_merge_short`, in O(n log n): a heap of pairs over a linked list."""
    following = np.arange(1, length + 1)
    previous = np.arange(-1, length - 1)
    states = np.full(length, _NO_PAIR, np.int64)
    ranks, places = np.empty(3 * length, np.int64), np.empty(3 * length, np.int64)
    size = 0
    for at in range(length - 1):
        states[at] = _pair(ids[at], ids[at + 1], pairs)
        if states[at] != _NO_PAIR:
            size = _push(ranks, places, size, states[at], at)
    while size > 0:
        found, at = ranks[0], places[0]
        size = _pop(ranks, places, size)
        if states[at] != found:  # it has changed since
            continue
        ids[at] = np.uint32(found & 0xFFFFFFFF)
        gone = following[at]
        states[gone] = _NO_PAIR
        after = following[gone]
        following[at] = after
        states[at] = _NO_PAIR
        if after < length:
            previous[after] = at
            states[at] = _pair(ids[at], ids[after], pairs)
            if states[at] != _NO_PAIR:
                size = _push(ranks, places, size, states[at], at)
        before = previous[at]
        if before >= 0:
            states[before] = _pair(ids[before], ids[at], pairs)
            if states[before] != _NO_PAIR:
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


@compiled
def _class_at(data: U8, at: Number, end: Number, classes: U8) -> tuple[int, int]:
    """Returns class bits and byte length of the character at ``at``; the text is valid UTF-8."""
    first = np.uint32(data[at])
    if first < 0x80:
        return classes[first], 1
    if first < 0xE0 and at + 1 < end:
        return classes[((first & 0x1F) << 6) | (data[at + 1] & 0x3F)], 2
    if first < 0xF0 and at + 2 < end:
        return classes[((first & 0x0F) << 12) | ((data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F)], 3
    if at + 3 < end:
        point = (first & 0x07) << 18 | (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F)
        return classes[point], 4
    return 0, 1


@compiled
def word_end(data: U8, at: Number, end: Number, classes: U8, split_han: bool) -> Number:
    """Returns where the word that begins at ``at`` ends: the alternatives of the pattern, in its order."""
    bits, size = _class_at(data, at, end, classes)
    if bits & HAN:
        at += size
        while not split_han and at < end:
            bits, size = _class_at(data, at, end, classes)
            if not bits & HAN:
                break
            at += size
        return at
    start = at
    if data[at] == 0x20 and at + 1 < end:
        at += 1
        bits, size = _class_at(data, at, end, classes)
    if bits & LETTER and not bits & HAN:
        while bits & LETTER and not bits & HAN:
            at += size
            if at >= end:
                break
            bits, size = _class_at(data, at, end, classes)
        return at
    if bits & NUMBER:
        return at + size
    if not bits & (SPACE | LETTER | NUMBER):
        while not bits & (SPACE | LETTER | NUMBER):
            at += size
            if at >= end:
                break
            bits, size = _class_at(data, at, end, classes)
        return at
    at = start
    bits, size = _class_at(data, at, end, classes)
    while bits & SPACE:
        at += size
        if at >= end:
            break
        bits, size = _class_at(data, at, end, classes)
    return at


@compiled
def _encode(
    data: U8, offsets: I64, classes: U8, of_byte: U32, pairs: Pairs, split_han: bool, out: U32, hashes: U64,
    words: I64, tokens: I64, lengths: I16,
    counts: I16, cached_bytes: U8, cached_ids: U32, used: I64,
) -> I64:  # fmt: skip
    ends = np.zeros(len(offsets), np.int64)
    mask = np.uint64(len(hashes) - 1)
    written = np.int64(0)
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            stop = word_end(data, at, end, classes, split_han)
            length = stop - at
            if length == 1:
                out[written] = of_byte[data[at]]
                written += 1
                at = stop
                continue
            if length > _CACHED_LENGTH:
                for index in range(length):
                    out[written + index] = of_byte[data[at + index]]
                if length <= _SCAN_LIMIT:
                    written += _merge_short(out[written:], length, pairs)
                else:
                    written += _merge_long(out[written : written + length], length, pairs)
                at = stop
                continue
            mixed = np.uint64(0xCBF29CE484222325) ^ np.uint64(length)
            for index in range(at, stop):
                mixed = (mixed ^ np.uint64(data[index])) * np.uint64(0x100000001B3)
            mixed = (mixed ^ (mixed >> np.uint64(32))) | np.uint64(1)  # 0 marks a free slot
            slot = (mixed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & mask
            found = False
            while hashes[slot] != 0:
                if hashes[slot] == mixed and lengths[slot] == length:
                    kept = words[slot]
                    found = True
                    for index in range(length):
                        if cached_bytes[kept + index] != data[at + index]:
                            found = False
                            break
                    if found:
                        break
                slot = (slot + np.uint64(1)) & mask
            if found:
                first = tokens[slot]
                for index in range(counts[slot]):
                    out[written + index] = cached_ids[first + index]
                written += counts[slot]
                at = stop
                continue
            for index in range(length):
                out[written + index] = of_byte[data[at + index]]
            count = _merge_short(out[written:], length, pairs)
            # used: words, bytes, ids in the cache. A full cache stays as it is: the commonest words came first.
            room = used[0] * 2 < len(hashes) and used[1] + length <= len(cached_bytes)
            if room and used[2] + count <= len(cached_ids):
                hashes[slot], lengths[slot], counts[slot] = mixed, length, count
                words[slot], tokens[slot] = used[1], used[2]
                for index in range(length):
                    cached_bytes[used[1] + index] = data[at + index]
                for index in range(count):
                    cached_ids[used[2] + index] = out[written + index]
                used[0] += 1
                used[1] += length
                used[2] += count
            written += count
            at = stop
        ends[document + 1] = written
    return ends
