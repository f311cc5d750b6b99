"""Tab-separated lines: cells are never quoted, so a block is cut by two whole-array splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.sources.batches import Origin, batch_of, is_utf8, not_utf8
from llmyard.sources.config import Files
from llmyard.sources.formats.lines import Lines, line_blocks
from llmyard.sources.records import Batch
from llmyard.sources.streams import Stream


def read_tab_separated(stream: Stream, start: int, stop: int, origin: Origin, source: Files) -> Iterator[Batch]:
    """Yields a document for each line that has the columns; ids hold the offset of their line."""
    for lines in line_blocks(stream, start, stop, origin.limits.max_record_bytes):
        yield _batch(lines, origin, source)


def _batch(lines: Lines, origin: Origin, source: Files) -> Batch:
    starts, ends = lines.spans()
    bad = [origin.bad(cut.offset, origin.too_long(), cut.data, cut.offset) for cut in lines.cut if not cut.reason]
    damage = [origin.bad(cut.offset, cut.reason, cut.data, cut.offset) for cut in lines.cut if cut.reason]
    values = _values(lines.data, starts, ends)
    keep = np.ones(len(starts), bool)

    def quarantine(which: Any, reason: Any) -> None:
        for at in np.flatnonzero(which & keep):
            key = int(starts[at]) + lines.offset
            bad.append(origin.bad(key, reason(int(at)), lines.data[starts[at] : min(ends[at], starts[at] + 1000)], key))
        keep[which] = False

    quarantine(
        ends - starts > origin.limits.max_record_bytes, lambda at: origin.too_long(int(ends[at]) - int(starts[at]))
    )
    if not is_utf8(values):
        quarantine(not_utf8(values), lambda at: _where(values[at].as_py()))
        values = values.filter(pa.array(keep))
        starts, ends, keep = starts[keep], ends[keep], keep[keep]
    texts = values.cast(pa.string())
    keep &= np.asarray(pc.greater(pc.binary_length(pc.ascii_trim_whitespace(texts)), 0))
    cells = pc.split_pattern(texts, "\t")
    counts = np.asarray(pc.list_value_length(cells))
    last = max(source.columns)
    quarantine(counts <= last, lambda at: f"the line has {counts[at]} columns, no column {last}")
    cells = cells.filter(pa.array(keep))
    columns = [pc.list_element(cells, column) for column in source.columns]
    joined = pc.binary_join_element_wise(*columns, "\n") if len(columns) > 1 else columns[0]
    keys = starts[keep] + lines.offset
    return batch_of(origin, keys, joined, offsets=keys, bad=bad, damage=damage)


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
