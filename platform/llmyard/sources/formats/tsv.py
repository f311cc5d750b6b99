"""Tab-separated lines: cells are never quoted, so a block is cut by two whole-array splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.sources.batches import Origin, batch_of, is_utf8, not_utf8
from llmyard.sources.config import Files
from llmyard.sources.formats.lines import Lines, Offsets, line_blocks
from llmyard.sources.records import BadRecord, Batch
from llmyard.sources.streams import Stream


def read_tab_separated(stream: Stream, start: int, stop: int, origin: Origin, source: Files) -> Iterator[Batch]:
    """Yields a document for each line that has the columns; ids hold the offset of their line."""
    last = max(source.columns)
    for lines in line_blocks(stream, start, stop, origin.limits.max_record_bytes):
        rows = Rows(lines, origin)
        rows.leave_shorter(last + 1, f"no column {last}")
        columns = [pc.list_element(rows.cells, column) for column in source.columns]
        joined = pc.binary_join_element_wise(*columns, "\n") if len(columns) > 1 else columns[0]
        yield batch_of(origin, rows.keys, joined, offsets=rows.keys, bad=rows.bad, damage=rows.damage)


class Rows:
    """The lines of a block that hold more than spaces, cut at tabs.

    Attributes:
        cells: A list of strings for each line.
        bad: Lines that were left out: too long, no UTF-8, or for a reason that :meth:`leave` was given.
        damage: What is wrong with more than a line.
    """

    def __init__(self, lines: Lines, origin: Origin) -> None:
        self._lines, self._origin = lines, origin
        self.bad: list[BadRecord] = []
        self.damage: list[BadRecord] = []
        for cut in lines.cut:
            bad = origin.bad(cut.offset, cut.reason or origin.too_long(), cut.data, cut.offset)
            (self.damage if cut.reason else self.bad).append(bad)
        self._starts, self._ends = lines.spans()
        self.cells: Any = pa.nulls(len(self._starts), pa.list_(pa.string()))
        sizes = self._ends - self._starts
        self.leave(sizes > origin.limits.max_record_bytes, lambda at: origin.too_long(int(sizes[at])))
        values = _values(lines.data, self._starts, self._ends)
        if not is_utf8(values):
            wrong = not_utf8(values)
            self.leave(wrong, lambda at: _where(values[at].as_py()))
            values = values.filter(pa.array(~wrong))
        texts = values.cast(pa.string())
        self.cells = pc.split_pattern(texts, "\t")
        self._keep(np.asarray(pc.greater(pc.binary_length(pc.ascii_trim_whitespace(texts)), 0)))

    @property
    def keys(self) -> Offsets:
        """Where in the file each line begins."""
        return self._starts + self._lines.offset

    def leave(self, which: Any, reason: Callable[[int], str]) -> None:
        """Takes lines out as bad records.

        Args:
            which: Whether, of each line.
            reason: Why, of a line by its number.
        """
        for at in np.flatnonzero(which).tolist():
            start, end = int(self._starts[at]), int(self._ends[at])
            key, line = start + self._lines.offset, self._lines.data[start : min(end, start + 1000)]
            self.bad.append(self._origin.bad(key, reason(at), line, key))
        self._keep(~which)

    def leave_shorter(self, columns: int, reason: str) -> None:
        """Takes lines with fewer columns out as bad records."""
        counts = np.asarray(pc.list_value_length(self.cells))
        self.leave(counts < columns, lambda at: f"the line has {counts[at]} columns, {reason}")

    def drop_first(self) -> None:
        """Takes the first line out, which is no record but a head."""
        self._keep(np.arange(len(self._starts)) > 0)

    def _keep(self, mask: Any) -> None:
        if not mask.all():
            self._starts, self._ends = self._starts[mask], self._ends[mask]
            self.cells = self.cells.filter(pa.array(mask))


def _values(data: bytes, starts: Any, ends: Any) -> Any:
    """Returns the lines as a binary array, cut out of the block by one gather."""
    # Every other value of an array over the whole block is a line; the ones between are the line feeds.
    edges = np.empty(2 * len(starts) + 1, np.int32)
    edges[0:-1:2], edges[1::2], edges[-1] = starts, ends, len(data)
    between = pa.Array.from_buffers(pa.binary(), 2 * len(starts), [None, pa.py_buffer(edges), pa.py_buffer(data)])
    return between.take(pa.array(np.arange(0, 2 * len(starts), 2)))


def _where(line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the line"
    return "not UTF-8"
