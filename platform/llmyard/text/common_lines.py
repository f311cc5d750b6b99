"""Lines that stand in many documents of a corpus: what sites put on every page, found by counting and dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from llmyard.core.columns import buffers_of, strings_of
from llmyard.core.compiled import I32, I64, U8, U64, Number, compiled
from llmyard.text.units import mix


def line_keys(texts: Any, least_bytes: int) -> tuple[U64, I32]:
    """Returns 64 bits for every line of a string column, and the row it stands in.

    Args:
        texts: Without nulls.
        least_bytes: Shorter lines, white space at their ends not counted, have no key.
    """
    data, offsets = buffers_of(texts)
    room = int((data[offsets[0] : offsets[-1]] == 0x0A).sum()) + len(offsets)
    keys, rows = np.empty(room, np.uint64), np.empty(room, np.int32)
    used = _keys(data, offsets, least_bytes, keys, rows)
    return keys[:used], rows[:used]


def without_lines(texts: Any, common: U64, least_bytes: int) -> tuple[Any, int]:
    """Returns the texts without the lines of these keys, and how many lines went.

    Args:
        texts: String column without nulls.
        common: Keys, sorted.
        least_bytes: As for :func:`line_keys`.
    """
    if not len(common):
        return texts, 0
    data, offsets = buffers_of(texts)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends, dropped = _without(data, offsets, common, least_bytes, out)
    return strings_of(out[: ends[-1]], ends).cast(pa.string()), int(dropped)


@compiled
def _line(data: U8, at: Number, end: Number) -> tuple[Number, Number, Number]:
    """Returns where the line ends that begins at ``at``, its size without white space at its ends, and its key."""
    stop = at
    while stop < end and data[stop] != 0x0A:
        stop += 1
    low, high = at, stop
    while low < high and (data[low] == 0x20 or data[low] == 0x09 or data[low] == 0x0D):
        low += 1
    while low < high and (data[high - 1] == 0x20 or data[high - 1] == 0x09 or data[high - 1] == 0x0D):
        high -= 1
    value = np.uint64(0xCBF29CE484222325)
    for place in range(low, high):
        value = (value ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
    return stop, high - low, mix(value)


@compiled
def _keys(data: U8, offsets: I64, least_bytes: int, keys: U64, rows: I32) -> int:
    used = 0
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        while at < end:
            stop, size, key = _line(data, at, end)
            if size >= least_bytes:
                keys[used], rows[used] = key, text
                used += 1
            at = stop + 1
    return used


@compiled
def _without(data: U8, offsets: I64, common: U64, least_bytes: int, out: U8) -> tuple[I64, int]:
    ends = np.zeros(len(offsets), np.int64)
    written, dropped = np.int64(0), 0
    for text in range(len(offsets) - 1):
        at, end, begin = offsets[text], offsets[text + 1], written
        while at < end:
            stop, size, key = _line(data, at, end)
            place = np.searchsorted(common, key) if size >= least_bytes else len(common)
            if place < len(common) and common[place] == key:
                dropped += 1
            else:
                if written > begin:
                    out[written] = 0x0A
                    written += 1
                for index in range(at, stop):
                    out[written] = data[index]
                    written += 1
            at = stop + 1
        ends[text + 1] = written
    return ends, dropped
