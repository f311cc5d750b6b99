"""A file's bytes cut at line feeds, a block at a time; a line belongs to the range in which it begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmyard.sources.streams import Stream

BLOCK_BYTES = 4 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TOO_LONG = ""

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """A line that cannot be given: where it begins, why, and its first bytes; the reason is "" for a line too long."""

    offset: int
    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines.

    Attributes:
        data: Their bytes, with the line feeds.
        offset: Place of the first byte in the decompressed file.
        cut: Lines after them that cannot be given.
    """

    data: bytes
    offset: int
    cut: list[Cut] = field(default_factory=list)

    def spans(self) -> tuple[Offsets, Offsets]:
        """Returns where in ``data`` each line that is not empty begins and ends, line feed and CR left out."""
        content = np.frombuffer(self.data, np.uint8)
        ends = np.flatnonzero(content == 10)
        if len(content) and content[-1] != 10:
            ends = np.append(ends, len(content))
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
        if len(ends):
            ends = ends - ((ends > starts) & (content[np.maximum(ends - 1, 0)] == 13))
        filled = ends > starts
        return starts[filled], ends[filled]


def first_byte(start: int) -> int:
    """Returns where to begin to read: a byte before the range, which tells a line's beginning from its middle."""
    return max(0, start - 1)


def line_blocks(stream: Stream, start: int, stop: int, limit: int) -> Iterator[Lines]:
    """Yields the lines that begin in a range of the file's bytes.

    Args:
        stream: The file, at :func:`first_byte` of the range.
        start: First byte of the range.
        stop: End of the range; 0 for the whole file.
        limit: Longest line in bytes; of a longer one no more than this is held in memory.
    """
    first = start == 0
    skipping = not first
    at = stream.position
    pieces: list[bytes] = []  # a line's beginning, without a line feed
    held = 0
    while chunk := stream.read(BLOCK_BYTES):
        if first:
            first = False
            if chunk.startswith(BYTE_ORDER_MARK):
                at, chunk = len(BYTE_ORDER_MARK), chunk[len(BYTE_ORDER_MARK) :]
        if skipping:
            end = chunk.find(b"\n") + 1
            at += end or len(chunk)
            if stop and at >= stop:
                return
            if not end:
                continue
            chunk, skipping = chunk[end:], False
        last = -1
        if stop and at + held + len(chunk) >= stop:
            last = chunk.find(b"\n", max(0, stop - 1 - at - held))
        end = (last if last >= 0 else chunk.rfind(b"\n")) + 1
        if end:
            data = b"".join([*pieces, chunk[:end]])
            yield Lines(data, at)
            at += len(data)
            pieces, held = [], 0
            if last >= 0 or (stop and at >= stop):
                return
        pieces.append(chunk[end:])
        held += len(chunk) - end
        if held > limit:
            yield Lines(b"", at, [Cut(at, TOO_LONG, b"".join(pieces)[:1000])])
            at += held
            pieces, held, skipping = [], 0, True
            if stop and at >= stop:
                return
    rest = b"".join(pieces)
    if stream.problem:
        yield Lines(b"", at, [Cut(at, stream.problem, rest)])
    elif rest:
        yield Lines(rest, at)
