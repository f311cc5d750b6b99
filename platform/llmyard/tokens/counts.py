"""How often each word of a corpus comes: all that learning a vocabulary needs, counted by portion and added up.

A word is what the pattern of ``tokenizer.py`` splits off. A corpus has far fewer different words than words, so the
counts of its portions are small, and their sum is the same for any division into portions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmyard.core.columns import buffers_of
from llmyard.core.compiled import I64, U8, U64, Number, compiled
from llmyard.tokens.bpe import character_classes, word_end

_FIRST_WORDS = 1 << 12


@dataclass(frozen=True, slots=True)
class Counts:
    """Different words and how often each comes.

    Attributes:
        data: The words' UTF-8 bytes, one after the other.
        offsets: Where each word begins (one more than words).
        counts: How often each word comes.
    """

    data: U8
    offsets: I64
    counts: I64

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def words(self) -> pa.LargeStringArray:
        """The words, without a copy."""
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(self.offsets), pa.py_buffer(self.data))

    def table(self) -> pa.Table:
        """Returns the columns ``word`` and ``count``, to be written to a file."""
        return pa.table({"word": self.words, "count": self.counts})


def count_all(texts: Iterable[str], split_han: bool) -> Counts:
    """Returns the words of texts that come one by one; memory holds a batch and the counts."""
    counter = WordCounter()
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size > 1 << 22:
            counter.add(pa.array(batch, pa.large_string()), split_han)
            batch, size = [], 0
    counter.add(pa.array(batch, pa.large_string()), split_han)
    return counter.counts()


class WordCounter:
    """Adds up words; 24 bytes each and their letters."""

    def __init__(self) -> None:
        self._hashes = np.zeros(2 * _FIRST_WORDS, np.uint64)
        self._places = np.zeros(2 * _FIRST_WORDS, np.int64)
        self._bytes = np.empty(16 * _FIRST_WORDS, np.uint8)
        self._offsets = np.zeros(_FIRST_WORDS + 1, np.int64)
        self._counts = np.zeros(_FIRST_WORDS, np.int64)
        self._used = np.zeros(1, np.int64)

    def add(self, texts: Any, split_han: bool) -> None:
        """Counts the words of an Arrow string column without nulls."""
        data, offsets = buffers_of(texts)
        document, at = 0, int(offsets[0])
        while document < len(offsets) - 1:
            document, at = _count(
                data, offsets, document, at, character_classes(), split_han, self._hashes, self._places, self._bytes,
                self._offsets, self._counts, self._used,
            )  # fmt: skip
            if document < len(offsets) - 1:
                self._grow(_word_length(data, at, offsets[document + 1], split_han))

    def add_counts(self, counts: Counts) -> None:
        """Adds the counts of another portion."""
        word = 0
        while word < len(counts):
            word = _add(
                counts.data, counts.offsets, counts.counts, word, self._hashes, self._places, self._bytes,
                self._offsets, self._counts, self._used,
            )  # fmt: skip
            if word < len(counts):
                self._grow(int(counts.offsets[word + 1] - counts.offsets[word]))

    def add_table(self, table: Any) -> None:
        """Adds the counts that :meth:`Counts.table` wrote."""
        self.add_counts(Counts(*buffers_of(table["word"]), np.asarray(table["count"], np.int64)))

    def counts(self) -> Counts:
        """Returns what was counted, in the order in which words were first met."""
        used = int(self._used[0])
        size = int(self._offsets[used])
        return Counts(self._bytes[:size].copy(), self._offsets[: used + 1].copy(), self._counts[:used].copy())

    def _grow(self, length: int) -> None:
        """Makes room for more words, or for a word of ``length`` bytes."""
        used = int(self._used[0])
        if 2 * used >= len(self._hashes) - 2:
            hashes, places = self._hashes, self._places
            self._hashes, self._places = np.zeros(2 * len(hashes), np.uint64), np.zeros(2 * len(hashes), np.int64)
            _rehash(hashes, places, self._hashes, self._places)
            self._offsets = np.append(self._offsets, np.zeros(len(self._counts), np.int64))
            self._counts = np.append(self._counts, np.zeros(len(self._counts), np.int64))
        if int(self._offsets[used]) + length > len(self._bytes):
            self._bytes = np.append(self._bytes, np.empty(len(self._bytes) + length, np.uint8))


def _word_length(data: U8, at: int, end: int, split_han: bool) -> int:
    return int(word_end(data, at, end, character_classes(), split_han)) - at


@compiled
def hash_of(data: U8, at: Number, stop: Number) -> Number:
    """Returns 64 bits of a run of bytes, never 0."""
    mixed = np.uint64(0xCBF29CE484222325) ^ np.uint64(stop - at)
    for index in range(at, stop):
        mixed = (mixed ^ np.uint64(data[index])) * np.uint64(0x100000001B3)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) | np.uint64(1)


@compiled
def _put(
    data: U8, at: Number, stop: Number, count: Number, hashes: U64, places: I64, kept: U8, offsets: I64, counts: I64,
    used: I64,
) -> bool:  # fmt: skip
    """Adds to a word's count; returns False, with nothing changed, where the table has no room for a new word."""
    mask = np.uint64(len(hashes) - 1)
    key = hash_of(data, at, stop)
    slot = (key >> np.uint64(11)) & mask
    while hashes[slot] != 0:
        if hashes[slot] == key:
            word = places[slot]
            first = offsets[word]
            same = offsets[word + 1] - first == stop - at
            index = 0
            while same and index < stop - at:
                same = kept[first + index] == data[at + index]
                index += 1
            if same:
                counts[word] += count
                return True
        slot = (slot + np.uint64(1)) & mask
    word = used[0]
    first = offsets[word]
    if 2 * word >= len(hashes) - 2 or first + stop - at > len(kept):
        return False
    for index in range(stop - at):
        kept[first + index] = data[at + index]
    hashes[slot], places[slot] = key, word
    offsets[word + 1] = first + stop - at
    counts[word] = count
    used[0] += 1
    return True


@compiled
def _count(
    data: U8, texts: I64, document: int, at: int, classes: U8, split_han: bool, hashes: U64, places: I64, kept: U8,
    offsets: I64, counts: I64, used: I64,
) -> tuple[int, int]:  # fmt: skip
    """Counts words from byte ``at`` of a document on; returns the document and byte where room ran out."""
    while document < len(texts) - 1:
        end = texts[document + 1]
        while at < end:
            stop = word_end(data, at, end, classes, split_han)
            if not _put(data, at, stop, 1, hashes, places, kept, offsets, counts, used):
                return document, at
            at = stop
        document += 1
    return document, at


@compiled
def _add(
    data: U8, words: I64, given: I64, word: int, hashes: U64, places: I64, kept: U8, offsets: I64, counts: I64,
    used: I64,
) -> int:  # fmt: skip
    while word < len(given):
        if not _put(data, words[word], words[word + 1], given[word], hashes, places, kept, offsets, counts, used):
            return word
        word += 1
    return word


@compiled
def _rehash(hashes: U64, places: I64, new_hashes: U64, new_places: I64) -> None:
    mask = np.uint64(len(new_hashes) - 1)
    for old in range(len(hashes)):
        if hashes[old] != 0:
            slot = (hashes[old] >> np.uint64(11)) & mask
            while new_hashes[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            new_hashes[slot], new_places[slot] = hashes[old], places[old]
