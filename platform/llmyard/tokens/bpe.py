"""Byte-level BPE compiled to machine code: the ids of Hugging Face's ``tokenizers``, many times faster.

A word (what the pattern of ``tokenizer.py`` splits off), or a part of one that no merge can leave (``crossings.py``),
is looked up in a table of those met before; only a new one is merged. Nothing is split or merged in Python.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers

from llmyard.core.compiled import I32, I64, U8, U32, U64, Number, compiled, eight_bytes
from llmyard.tokens.crossings import Crossings, next_piece
from llmyard.tokens.pairs import SCAN_LIMIT, Pairs, merge_long, merge_short

LETTER, NUMBER, SPACE, HAN = 1, 2, 4, 8
_CLASSES = ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+"), (HAN, r"\p{Han}+"))

_CACHE_SLOTS = 1 << 20  # 64 bytes each
_CACHED_LENGTH = 24  # bytes
_CACHED_IDS = 8
# For each length of a word, which bits of its three groups of eight bytes are its own.
_MASKS = np.array(
    [[(1 << 8 * min(8, max(0, length - 8 * group))) - 1 for group in range(3)] for length in range(_CACHED_LENGTH + 1)],
    np.uint64,
)


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
        tokens = {bytes_of(token): id_ for token, id_ in vocabulary.items() if set(token) <= set(alphabet)}
        self._crossings = Crossings.of(tokens, np.stack([left, right, made]).astype(np.int64).T)
        self._cache = np.zeros((_CACHE_SLOTS, 8), np.uint64)
        self._cached = np.zeros(1, np.int64)

    def encode(self, texts: Any) -> tuple[U32, I64]:
        """Returns the ids of all texts in a row, and where each text's begin (one more offset than texts).

        Args:
            texts: An Arrow array or chunked array of strings without nulls.
        """
        from llmyard.core.columns import buffers_of

        data, offsets = buffers_of(texts)
        ids = np.empty(int(offsets[-1] - offsets[0]) + _CACHED_IDS, np.uint32)
        ends = _encode(
            data, offsets, self._classes, self._of_byte, self._pairs, self._crossings, self._split_han, ids,
            self._cache, self._cached,
        )  # fmt: skip
        return ids[: ends[-1]].copy(), ends


def byte_characters() -> list[str]:
    """Returns the character that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


@cache
def _bytes_by_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def bytes_of(token: str) -> bytes:
    """Returns the bytes that a byte-level vocabulary's token stands for."""
    return bytes([_bytes_by_character()[character] for character in token])


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
    data: U8, offsets: I64, classes: U8, of_byte: U32, pairs: Pairs, crossings: Crossings, split_han: bool, out: U32,
    cache: U64, cached: I64,
) -> I64:  # fmt: skip
    """Writes the ids of all texts.

    A slot of the cache is one line of the processor's: 24 bytes of a word, its lengths (0 in a free slot) and 8 ids.
    """
    ends = np.zeros(len(offsets), np.int64)
    mask = np.uint64(len(cache) - 1)
    characters, found = np.empty(SCAN_LIMIT, np.uint32), np.zeros(1, np.int32)
    scratch = np.empty((4, SCAN_LIMIT), np.int32)
    written = np.int64(0)
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            word = word_end(data, at, end, classes, split_han)
            while at < word:
                stop = word
                if data[word - 1] >= 0x80:
                    stop = next_piece(data, at, word, crossings, characters, found)
                    if found[0] > 0:
                        for index in range(found[0]):
                            out[written + index] = characters[index]
                        length = np.int64(found[0])
                        written += length if length < 3 else merge_short(out, written, length, pairs, scratch)
                        at = stop
                        continue
                if stop - at == 1:
                    out[written] = of_byte[data[at]]
                    written += 1
                    at = stop
                    continue
                if stop - at > _CACHED_LENGTH:
                    written += _merged(data, at, stop, of_byte, pairs, out, written, scratch)
                    at = stop
                    continue
                size = np.uint64(stop - at)
                if at + _CACHED_LENGTH <= len(data):
                    one = eight_bytes(data, at) & _MASKS[stop - at, 0]
                    two = eight_bytes(data, at + 8) & _MASKS[stop - at, 1]
                    three = eight_bytes(data, at + 16) & _MASKS[stop - at, 2]
                else:
                    one, two, three = _last_bytes(data, at, stop)
                mixed = (one ^ size) * np.uint64(0x9E3779B97F4A7C15)
                mixed = ((mixed ^ (mixed >> np.uint64(32))) + two) * np.uint64(0xFF51AFD7ED558CCD)
                mixed = ((mixed ^ (mixed >> np.uint64(32))) + three) * np.uint64(0xC4CEB9FE1A85EC53)
                slot = (mixed >> np.uint64(32)) & mask
                count = np.int64(0)
                while cache[slot, 3] != 0:
                    lengths = cache[slot, 3]
                    same = cache[slot, 0] == one and cache[slot, 1] == two and cache[slot, 2] == three
                    if same and lengths & np.uint64(0xFF) == size:
                        for index in range(_CACHED_IDS // 2):  # all: what is too much, the next word overwrites
                            both = cache[slot, 4 + index]
                            out[written + 2 * index] = np.uint32(both)
                            out[written + 2 * index + 1] = np.uint32(both >> np.uint64(32))
                        count = np.int64(lengths >> np.uint64(8))
                        break
                    slot = (slot + np.uint64(1)) & mask
                if count == 0:
                    count = _merged(data, at, stop, of_byte, pairs, out, written, scratch)
                    # A full cache stays as it is: the commonest words came first.
                    if count <= _CACHED_IDS and cached[0] * 2 < len(cache):
                        cached[0] += 1
                        cache[slot, 0], cache[slot, 1], cache[slot, 2] = one, two, three
                        cache[slot, 3] = size | np.uint64(count) << np.uint64(8)
                        for index in range(count):
                            cache[slot, 4 + (index >> 1)] |= np.uint64(out[written + index]) << np.uint64(
                                32 * (index & 1)
                            )
                written += count
                at = stop
        ends[document + 1] = written
    return ends


@compiled
def _last_bytes(data: U8, at: Number, stop: Number) -> tuple[Number, Number, Number]:
    """Returns a word's bytes in three groups of eight, the first byte the lowest, where the data end soon after it."""
    one = two = three = np.uint64(0)
    for index in range(stop - at):
        byte = np.uint64(data[at + index]) << np.uint64(8 * (index & 7))
        if index < 8:
            one |= byte
        elif index < 16:
            two |= byte
        else:
            three |= byte
    return one, two, three


@compiled
def _merged(
    data: U8, at: Number, stop: Number, of_byte: U32, pairs: Pairs, out: U32, first: Number, scratch: I32
) -> Number:
    """Writes the ids of a word from ``first`` on; returns how many."""
    length = stop - at
    for index in range(length):
        out[first + index] = of_byte[data[at + index]]
    if length <= SCAN_LIMIT:
        return np.int64(merge_short(out, first, length, pairs, scratch))
    return np.int64(merge_long(out[first : first + length], length, pairs))
