"""Byte-level BPE compiled to machine code: the ids of Hugging Face's ``tokenizers``, many times faster.

A word (what the pattern of ``tokenizer.py`` splits off) is looked up in a table of words met before; only a new one is
merged. Nothing is split or merged in Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers

from llmyard.core.compiled import I16, I64, U8, U32, U64, Number, compiled
from llmyard.tokens.pairs import SCAN_LIMIT, Pairs, merge_long, merge_short

LETTER, NUMBER, SPACE, HAN = 1, 2, 4, 8
_CLASSES = ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+"), (HAN, r"\p{Han}+"))

_CACHED_WORDS = 1 << 20
_CACHED_LENGTH = 24  # bytes; longer ones, such as runs of Chinese, seldom come again


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
                if length <= SCAN_LIMIT:
                    written += merge_short(out[written:], length, pairs)
                else:
                    written += merge_long(out[written : written + length], length, pairs)
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
            count = merge_short(out[written:], length, pairs)
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
