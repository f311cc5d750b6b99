"""128 bits that stand for a text: what exact duplicates share, and what decides a document's split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from llmyard.core.columns import buffers_of
from llmyard.core.compiled import I64, U8, U64, Number, compiled, eight_bytes
from llmyard.text.units import mix

_ONE, _TWO = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)


def digests(texts: Any) -> pa.Array:
    """Returns the digests of a string column: MurmurHash3 x64 128 (Appleby 2011) of the UTF-8 bytes, seed 0.

    Two texts of a corpus of 10^12 share one by chance with a probability of 10^-15; against somebody who makes texts
    that collide on purpose it gives no security.
    """
    data, offsets = buffers_of(texts)
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    _digests(data, offsets, out)
    return pa.Array.from_buffers(pa.binary(16), len(out), [None, pa.py_buffer(out)])


@compiled
def _rotated(value: Number, bits: int) -> Number:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def _digests(data: U8, offsets: I64, out: U64) -> None:
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        size = np.uint64(end - at)
        first = second = np.uint64(0)
        while at + 16 <= end:
            first ^= _rotated(eight_bytes(data, at) * _ONE, 31) * _TWO
            first = (_rotated(first, 27) + second) * np.uint64(5) + np.uint64(0x52DCE729)
            second ^= _rotated(eight_bytes(data, at + 8) * _TWO, 33) * _ONE
            second = (_rotated(second, 31) + first) * np.uint64(5) + np.uint64(0x38495AB5)
            at += 16
        low = high = np.uint64(0)
        for index in range(end - at):
            byte = np.uint64(data[at + index]) << np.uint64(8 * (index & 7))
            if index < 8:
                low |= byte
            else:
                high |= byte
        first ^= _rotated(low * _ONE, 31) * _TWO
        second ^= _rotated(high * _TWO, 33) * _ONE
        first, second = first ^ size, second ^ size
        first += second
        second += first
        first, second = mix(first), mix(second)
        first += second
        out[text, 0], out[text, 1] = first, second + first
