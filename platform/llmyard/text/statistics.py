"""What quality rules look at, counted for every text in one compiled pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmyard.core.columns import buffers_of
from llmyard.core.compiled import F64, I64, U8, U64, Number, compiled
from llmyard.text import characters
from llmyard.text.characters import HAN, LETTER, NUMBER, PUNCTUATION, SENTENCE_END, SPACE, SYLLABLE
from llmyard.text.units import decode, mix

# Columns of the table below. Lengths are in characters unless they say otherwise.
NAMES = (
    "characters", "dense", "letters", "han", "numbers", "punctuation", "doubtful", "tagged", "words", "syllables",
    "word_characters", "lettered_words", "hashes", "ellipses", "stop_words", "stop_characters", "lines", "bullet_lines",
    "ellipsis_lines", "ended_lines", "short_lines", "line_characters", "repeated_lines", "repeated_line_characters",
    "paragraphs", "repeated_paragraphs", "repeated_paragraph_characters", "braces",
)  # fmt: skip
(
    CHARACTERS, DENSE, LETTERS, HANS, NUMBERS, PUNCTUATIONS, DOUBTFUL, TAGGED, WORDS, SYLLABLES,
    WORD_CHARACTERS, LETTERED_WORDS, HASHES, ELLIPSES, STOP_WORDS, STOP_CHARACTERS, LINES, BULLET_LINES,
    ELLIPSIS_LINES, ENDED_LINES, SHORT_LINES, LINE_CHARACTERS, REPEATED_LINES, REPEATED_LINE_CHARACTERS,
    PARAGRAPHS, REPEATED_PARAGRAPHS, REPEATED_PARAGRAPH_CHARACTERS, BRACES,
) = range(len(NAMES))  # fmt: skip

# Rae et al. 2021 (Gopher), table A1; the Chinese ones are the commonest function characters of modern Chinese.
STOP_WORDS_EN = ("the", "be", "to", "of", "and", "that", "have", "with")
STOP_CHARACTERS_ZH = "的一是不了在有人这个上们来到时大地为子中说"

SHORT_LINE = 30
_LONGEST_TAG = 500
# Replacement character, and what UTF-8 read as Latin-1 or GBK begins with: a regular expression looks closer.
_DOUBTFUL = "\ufffd锟烫ÂÃâãäåæçèéêëìíîï"
_BULLETS = "•‣▶◀◦■□▪▫–-*·●○"


def statistics(texts: Any) -> dict[str, F64]:
    """Returns the counts of :data:`NAMES` for every text of a string column.

    ``words`` counts units (``units.py``), ``word_characters`` and ``lettered_words`` those of scripts with spaces;
    ``doubtful`` counts characters that wrong decoding often leaves; ``tagged`` counts characters inside ``<tags>``;
    ``stop_words`` counts different ones. Lines and paragraphs (parted by an empty line) are counted where they hold
    more than space; a repeated one is one that stood in the same text before.
    """
    data, offsets = buffers_of(texts)
    table = _count(data, offsets, characters.classes(), _stop_words(), _marked())
    return {name: table[:, at] for at, name in enumerate(NAMES)}


def _stop_words() -> U64:
    """Returns the stop words as numbers: their letters are the bytes."""
    return np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS_EN], np.uint64)


def _marked() -> U8:
    """Returns per code point: 1 stop character, 2 doubtful, 4 bullet."""
    marks = np.zeros(0x110000, np.uint8)
    for bit, group in ((1, STOP_CHARACTERS_ZH), (2, _DOUBTFUL), (4, _BULLETS)):
        marks[[ord(character) for character in group]] |= np.uint8(bit)
    return marks


@compiled
def seen_before(table: U64, value: Number) -> bool:
    """Puts a value into an open-addressed set (0 is free); returns whether it was there."""
    value |= np.uint64(1)
    mask = np.uint64(len(table) - 1)
    at = (value >> np.uint64(7)) & mask
    while table[at] != 0:
        if table[at] == value:
            return True
        at = (at + np.uint64(1)) & mask
    table[at] = value
    return False


@compiled
def _count(data: U8, offsets: I64, classes: U8, stop_words: U64, marked: U8) -> F64:
    texts = len(offsets) - 1
    out = np.zeros((texts, 28), np.float64)
    for text in range(texts):
        _count_characters(data, offsets[text], offsets[text + 1], classes, stop_words, marked, out[text])
        _count_lines(data, offsets[text], offsets[text + 1], classes, marked, out[text])
    return out


@compiled
def _count_characters(data: U8, start: Number, end: Number, classes: U8, stop_list: U64, marked: U8, row: F64) -> None:
    seen_stop_words = 0
    inside, lettered, size, word = False, False, 0, np.uint64(0)
    letters = characters = dense = 0  # the commonest counts, in registers
    tag, dots = -1, 0
    at = start
    while True:
        run = at
        while at < end and 0x61 <= data[at] | 0x20 <= 0x7A:
            if at - run < 8:
                word = (word << np.uint64(8)) | np.uint64(data[at] | 0x20)
            at += 1
        if at > run:
            size = size + at - run if inside else at - run
            inside, lettered = True, True
            letters += at - run
            characters += at - run
            dense += at - run
            dots = 0
        if at < end:
            point, length = decode(data, at, end)
            bits = classes[point]
        else:
            point, length, bits = np.int64(32), np.int64(0), classes[32]
        if inside and not (bits & (LETTER | NUMBER) and not bits & SYLLABLE):
            row[WORDS] += 1
            row[WORD_CHARACTERS] += size
            row[LETTERED_WORDS] += lettered
            if size <= 4:
                for index in range(len(stop_list)):
                    if stop_list[index] == word and not seen_stop_words & (1 << index):
                        seen_stop_words |= 1 << index
                        row[STOP_WORDS] += 1
            inside, lettered, size, word = False, False, 0, np.uint64(0)
        if at >= end:
            break
        at += length
        characters += 1
        if point == 0x2E:
            dots += 1
            if dots == 3:
                row[ELLIPSES] += 1
                dots = 0
        else:
            dots = 0
        if bits & SPACE:
            continue
        dense += 1
        if bits & (LETTER | NUMBER):
            letters += (bits & LETTER) != 0
            row[NUMBERS] += (bits & NUMBER) != 0
            row[HANS] += (bits & HAN) != 0
            if bits & SYLLABLE:
                row[WORDS] += 1
                row[SYLLABLES] += 1
            else:
                inside = True
                lettered = lettered or (bits & LETTER) != 0
                size += 1
                word = (word << np.uint64(8)) | np.uint64(0xFF)  # no stop word has such a letter
        elif bits & PUNCTUATION:
            row[PUNCTUATIONS] += 1
            if point == 0x23:
                row[HASHES] += 1
            elif point == 0x2026:
                row[ELLIPSES] += 1
            elif point == 0x7B or point == 0x7D:
                row[BRACES] += 1
            elif point == 0x3C:
                tag = characters
            elif point == 0x3E and tag >= 0:
                width = characters - tag + 1
                if 3 <= width <= _LONGEST_TAG + 2:
                    row[TAGGED] += width
                tag = -1
        mark = marked[point]
        if mark:
            row[STOP_CHARACTERS] += mark & 1
            row[DOUBTFUL] += (mark & 2) >> 1
    row[CHARACTERS], row[DENSE], row[LETTERS] = characters, dense, letters


@compiled
def _count_lines(data: U8, start: Number, end: Number, classes: U8, marked: U8, row: F64) -> None:
    breaks = 1
    for at in range(start, end):
        breaks += data[at] == 0x0A
    size = 16
    while size < 2 * breaks:
        size *= 2
    lines, paragraphs = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    paragraph, paragraph_size = np.uint64(0), 0
    at = start
    while at <= end:
        stop = at
        while stop < end and data[stop] != 0x0A:
            stop += 1
        value, size_of_line, gap = np.uint64(0xCBF29CE484222325), 0, 0
        first, last, before_last = np.int64(0), np.int64(0), np.int64(0)
        ended = False
        position = at
        while position < stop:
            point, length = decode(data, position, stop)
            position += length
            bits = classes[point]
            if bits & SPACE:
                gap += 1
                continue
            if size_of_line == 0:
                first = point
            else:
                size_of_line += gap
            gap = 0
            size_of_line += 1
            value = (value ^ np.uint64(point)) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(32)
            before_last, last = last, point
            # A closing quotation mark or bracket behind the full stop still ends a sentence.
            closing = point == 0x22 or point == 0x27 or point == 0x29 or point == 0x201D or point == 0x2019
            closing = closing or point == 0xFF09 or point == 0x300D or point == 0x300F
            ended = (bits & SENTENCE_END) != 0 or (ended and closing)
        if size_of_line:
            row[LINES] += 1
            row[LINE_CHARACTERS] += size_of_line
            row[BULLET_LINES] += (marked[first] & 4) != 0
            row[ELLIPSIS_LINES] += last == 0x2026 or (last == 0x2E and before_last == 0x2E)
            row[ENDED_LINES] += ended
            row[SHORT_LINES] += size_of_line <= SHORT_LINE
            if seen_before(lines, mix(value)):
                row[REPEATED_LINES] += 1
                row[REPEATED_LINE_CHARACTERS] += size_of_line
            paragraph = mix(paragraph + value)
            paragraph_size += size_of_line
        if paragraph_size and (size_of_line == 0 or stop >= end):
            row[PARAGRAPHS] += 1
            if seen_before(paragraphs, paragraph):
                row[REPEATED_PARAGRAPHS] += 1
                row[REPEATED_PARAGRAPH_CHARACTERS] += paragraph_size
            paragraph, paragraph_size = np.uint64(0), 0
        at = stop + 1
