"""Text normalisation, whole columns at a time."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.columns import buffers_of, strings_of
from llmyard.core.compiled import I64, U8, Number, compiled
from llmyard.text.characters import varied_points
from llmyard.text.html import is_html, strip_tags
from llmyard.text.units import decode

# What becomes of a character. Full-width punctuation is kept: it is right in Chinese.
COPY, REMOVE, BLANK, LINE_FEED, CARRIAGE_RETURN, OTHER_SPACE = range(6)
UNSURE = 8  # bit: not certain to be in NFC where it stands

_REMOVED = (0xFEFF, 0x200B, 0x00AD, *range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)
_BLANKS = (0x20, 0x09, 0xA0)


def normalize(texts: pa.ChunkedArray | pa.Array) -> Any:
    """Returns the texts in Unicode NFC, without control characters and with plain white space.

    Byte-order marks, zero-width spaces, soft hyphens and control characters go; runs of blanks become one space, none
    is left beside a line feed; at most one empty line stands between two lines, and no white space at either end.
    Tags are dropped from texts that are HTML; the main text of a page is found by ``html.extract``.
    """
    marked = is_html(texts)
    if pc.any(marked).as_py():
        texts = pc.if_else(marked, strip_tags(texts), texts)
    data, offsets, unsure = _pass(texts)
    if unsure.any():
        mask = pa.array(unsure.view(bool))
        composed = [unicodedata.normalize("NFC", text) for text in texts.filter(mask).to_pylist()]
        whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        data, offsets, _ = _pass(pc.replace_with_mask(whole, mask, pa.array(composed, whole.type)))
    return strings_of(data, offsets).cast(pa.string())


def _pass(texts: Any) -> tuple[U8, I64, U8]:
    data, offsets = buffers_of(texts)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    unsure = np.zeros(len(offsets) - 1, np.uint8)
    ends = _plain(data, offsets, _actions(), out, unsure)
    return out[: ends[-1]], ends, unsure


@cache
def _actions() -> U8:
    """Returns what becomes of every code point, with the bit UNSURE where its form depends on its neighbours."""
    actions = np.zeros(0x110000, np.uint8)
    seconds = set()
    for point in varied_points():
        character = chr(point)
        if character.isspace():
            actions[point] = OTHER_SPACE
        parts = unicodedata.decomposition(character)
        if parts and not parts.startswith("<") and len(parts.split()) == 2:
            seconds.add(int(parts.split()[1], 16))
        if not unicodedata.is_normalized("NFC", character) or unicodedata.combining(character):
            actions[point] |= UNSURE
    # Vowels and final consonants of Hangul, which compose by arithmetic.
    for point in (*seconds, *range(0x1161, 0x1176), *range(0x11A8, 0x11C3)):
        actions[point] |= UNSURE
    actions[list(_REMOVED)] = REMOVE
    actions[list(_BLANKS)] = BLANK
    actions[0x0A], actions[0x0D] = LINE_FEED, CARRIAGE_RETURN
    return actions


@compiled
def _plain(data: U8, offsets: I64, actions: U8, out: U8, unsure: U8) -> I64:
    ends = np.zeros(len(offsets), np.int64)
    written = np.int64(0)
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        begin = solid = written
        lines, blank, doubt = 0, False, np.uint8(0)
        while at < end:
            byte, length = data[at], np.int64(1)
            action: Number = np.uint8(0)
            if byte <= 0x20 or byte >= 0x7F:
                point, length = decode(data, at, end)
                action = actions[point]
                doubt |= action & 8
                action &= 7
            if action == 0 or action == 5:
                if action == 5 and written == begin:
                    at += length
                    continue
                if written > begin:
                    if lines:
                        out[written] = 0x0A
                        written += 1
                        if lines > 1:
                            out[written] = 0x0A
                            written += 1
                    elif blank:
                        out[written] = 0x20
                        written += 1
                lines, blank = 0, False
                for index in range(length):
                    out[written + index] = data[at + index]
                written += length
                if action == 0:
                    solid = written
            elif action == 2:
                blank = True
            elif action == 3 or (action == 4 and not (at + 1 < end and data[at + 1] == 0x0A)):
                lines += 1
            at += length
        written = solid
        ends[text + 1] = written
        unsure[text] = doubt != 0
    return ends
