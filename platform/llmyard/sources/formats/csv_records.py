"""Comma-separated records (RFC 4180): a cell may be quoted, and a quoted cell may hold line feeds.

A block is cut where a line feed stands after an even number of quotes, and goes through pyarrow's parser; where that
refuses it, record by record. A stray quote makes the cut wrong from there on: a record that cannot be read is left
after its first line, so that the next line has a chance of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from llmyard.sources.batches import Gathering, Origin, is_utf8_block, nothing_but
from llmyard.sources.fields import Fields
from llmyard.sources.formats.lines import BLOCK_BYTES, BYTE_ORDER_MARK, TOO_LONG, Cut, Lines, Offsets
from llmyard.sources.records import Batch
from llmyard.sources.streams import Stream

_QUOTE = b'"'


def read_comma_separated(
    stream: Stream, origin: Origin, fields: Fields, delimiter: str, *, fast: bool = True
) -> Iterator[Batch]:
    """Yields the documents of a CSV file; its first record names the columns. Ids hold the offset of their record.

    Args:
        stream: The file.
        origin: The file's name and limits.
        fields: Which columns to take.
        delimiter: What stands between two cells.
        fast: Whether to try pyarrow's parser first.
    """
    header: _Header | None = None
    for lines in _record_blocks(stream, origin.limits.max_record_bytes):
        if header is None and lines.data:
            end = _record_end(lines.data, 0)
            header = _Header(_cells(_trimmed(lines.data[:end]), delimiter) or [], delimiter, fields, origin)
            if not set(fields.texts) & set(header.names):
                reason = f"{fields.missing}; the first line's columns are {', '.join(header.names[:20])}"
                yield nothing_but(origin.bad(0, reason, lines.data[:1000], lines.offset))
                return
            lines = Lines(lines.data[end:], lines.offset + end, lines.cut)
        if header is not None and lines.data:
            batch = header.at_once(lines) if fast else None
            if batch is None:
                yield from header.one_by_one(lines)
            else:
                yield batch
        if lines.cut:
            bad = (origin.bad(cut.offset, cut.reason or origin.too_long(), cut.data, cut.offset) for cut in lines.cut)
            yield nothing_but(*bad)


def _record_blocks(stream: Stream, limit: int) -> Iterator[Lines]:
    """Yields whole records, as far as quotes tell."""
    data, at, first, skipping = b"", 0, True, False
    while chunk := stream.read(BLOCK_BYTES):
        if first and chunk.startswith(BYTE_ORDER_MARK):
            chunk, at = chunk[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
        first = False
        if skipping:
            end = chunk.find(b"\n") + 1
            at += end or len(chunk)
            if not end:
                continue
            chunk, skipping = chunk[end:], False
        data += chunk
        _, ends = _spans(data)
        end = int(ends[-1]) if len(ends) else 0
        if not end and len(data) > limit:
            # A stray quote, most likely: line by line, what can be read is found.
            end = data.rfind(b"\n") + 1
            if not end:
                yield Lines(b"", at, [Cut(at, TOO_LONG, data[:1000])])
                data, at, skipping = b"", at + len(data), True
        if end:
            yield Lines(data[:end], at)
            data, at = data[end:], at + end
    if stream.problem:
        yield Lines(b"", at, [Cut(at, stream.problem, data)])
    elif data:
        yield Lines(data, at)


def _spans(data: bytes) -> tuple[Offsets, Offsets]:
    """Returns where each record begins and where the next one does; of whole records only."""
    content = np.frombuffer(data, np.uint8)
    feeds = np.flatnonzero(content == 10)
    quotes = np.flatnonzero(content == 34)
    if len(quotes):
        feeds = feeds[np.searchsorted(quotes, feeds) % 2 == 0]
    ends = feeds + 1
    return np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)], ends


def _quotes_in_place(content: npt.NDArray[np.uint8], delimiter: str) -> bool:
    """Returns whether every quote opens or closes a cell, or is one of a pair within; pyarrow reads on if not."""
    quotes = np.flatnonzero(content == 34)
    if len(quotes) % 2:
        return False
    edges = np.array([*b'\n\r"', *delimiter.encode()], np.uint8)
    padded = np.concatenate([content, np.full(1, 10, np.uint8)])
    before = padded[quotes[::2] - 1]  # the padding stands before the first byte too, by its index -1
    return bool(np.isin(before, edges).all() and np.isin(padded[quotes[1::2] + 1], edges).all())


def _record_end(data: bytes, start: int) -> int:
    """Returns where the record that begins at ``start`` ends, its line end included."""
    end = start
    quotes = 0
    while True:
        feed = data.find(b"\n", end)
        if feed < 0:
            return len(data)
        quotes += data.count(_QUOTE, end, feed)
        end = feed + 1
        if quotes % 2 == 0:
            return end


def _trimmed(record: bytes) -> bytes:
    return record.removesuffix(b"\n").removesuffix(b"\r")


def _cells(record: bytes, delimiter: str) -> list[str] | None:
    """Returns a record's cells, bytes that are no UTF-8 as surrogates; None if it is no whole record."""
    text = record.decode("utf-8", "surrogateescape")
    # The reader's own limit is 128 KiB a cell, and the same for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    # Strict refuses a quote that is never closed, which the other way takes to close at the end; but it refuses
    # letters after a closing quote too, which every reader in use forgives. Over several lines those are a sign that
    # two stray quotes have found each other.
    for strict in (True,) if record.count(_QUOTE) % 2 or b"\n" in record else (True, False):
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict))
        except csv.Error:
            continue
        return rows[0] if len(rows) == 1 else None
    return None


@dataclass(frozen=True, slots=True)
class _Header:
    """The columns of a file, and how its records are read."""

    names: list[str]
    delimiter: str
    fields: Fields
    origin: Origin

    def at_once(self, lines: Lines) -> Batch | None:
        """Returns the documents of a block by pyarrow's parser; None if it may read it otherwise than we would."""
        data, limit = lines.data, self.origin.limits.max_record_bytes
        starts, ends = _spans(data)
        if not len(ends) or ends[-1] < len(data):
            starts, ends = np.append(starts, ends[-1:] if len(ends) else 0), np.append(ends, len(data))
        content = np.frombuffer(data, np.uint8)
        blank = (content[starts] == 10) | ((content[starts] == 13) & (ends - starts == 2))
        starts, ends = starts[~blank], ends[~blank]
        # A carriage return alone ends a record for pyarrow.
        stray = b"\r" in data and data.count(b"\r") != data.count(b"\r\n")
        if stray or not len(starts) or int((ends - starts).max()) > limit or not is_utf8_block(data):
            return None
        if not _quotes_in_place(content, self.delimiter):
            return None
        ends = ends - (content[ends - 1] == 10)
        ends = ends - (content[ends - 1] == 13)
        numbers = [str(number) for number in range(len(self.names))]
        wanted = [numbers[self.names.index(name)] for name in self.fields.names if name in self.names]
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(data),
                pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=numbers),
                pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(numbers, pa.string()),
                    include_columns=wanted,
                    strings_can_be_null=False,
                    null_values=[],
                ),
            )
        except (pa.ArrowException, OSError):
            return None
        if len(table) != len(starts):
            return None
        table = table.rename_columns([self.names[int(number)] for number in table.column_names])
        return self.fields.batch(self.origin, lines, starts, ends, table)

    def one_by_one(self, lines: Lines) -> Iterator[Batch]:
        """Yields the documents of a block record by record."""
        gathered = Gathering(self.origin)
        data, at = lines.data, 0
        while at < len(data):
            end = _record_end(data, at)
            cells = _cells(_trimmed(data[at:end]), self.delimiter)
            first = data.find(b"\n", at) + 1 or len(data)
            if first < end and (cells is None or len(cells) != len(self.names)):
                end = first
                cells = _cells(_trimmed(data[at:end]), self.delimiter)
            self._add(gathered, lines.offset + at, _trimmed(data[at:end]), cells)
            yield from gathered.full()
            at = end
        yield from gathered.rest()

    def _add(self, gathered: Gathering, offset: int, record: bytes, cells: list[str] | None) -> None:
        limit = self.origin.limits.max_record_bytes
        if not record:
            return
        try:
            record.decode()
        except UnicodeDecodeError as error:
            gathered.bad(offset, f"not UTF-8 at byte {error.start} of the record", record, offset)
            return
        if len(record) > limit:
            gathered.bad(offset, self.origin.too_long(len(record)), record[:1000], offset)
        elif cells is None:
            gathered.bad(offset, "a quote is never closed, or stands where none may", record, offset)
        elif len(cells) != len(self.names):
            gathered.bad(offset, f"the record has {len(cells)} cells, the header {len(self.names)}", record, offset)
        else:
            values: dict[str, Any] = dict(zip(reversed(self.names), reversed(cells), strict=True))
            self.fields.add(gathered, offset, values, record, offset)
