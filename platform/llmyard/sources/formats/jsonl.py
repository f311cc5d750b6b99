"""JSON lines: a block at a time through pyarrow's parser, line by line where that refuses the block.

Which lines are documents is decided by :func:`parse_line`; the fast way takes only blocks whose every line it would
take too, with the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json

from llmyard.sources.batches import Gathering, Origin, is_utf8_block
from llmyard.sources.fields import Fields
from llmyard.sources.formats.lines import BYTE_ORDER_MARK, Lines, Offsets, line_blocks
from llmyard.sources.records import Batch, not_json
from llmyard.sources.streams import Stream

# pyarrow 25 dies (SIGSEGV) of a null in an object's place if it was told the schema; a line that begins with { has
# such a null after a } only. Inside a string this is no harm: the block then goes line by line.
_NULL_BETWEEN_OBJECTS = re.compile(rb"\}[ \t\r\n]*n")


def read_json_lines(
    stream: Stream, start: int, stop: int, origin: Origin, fields: Fields, *, fast: bool = True
) -> Iterator[Batch]:
    """Yields the documents of JSON lines; ids hold the offset of their line.

    Args:
        stream: The file.
        start: First byte of the range.
        stop: End of the range; 0 for the whole file.
        origin: The file's name and limits.
        fields: Which fields to take.
        fast: Whether to try pyarrow's parser first.
    """
    for lines in line_blocks(stream, start, stop, origin.limits.max_record_bytes):
        starts, ends = lines.spans()
        long = len(starts) and int((ends - starts).max()) > origin.limits.max_record_bytes
        table = _objects(lines.data, starts, ends, fields.names) if fast and len(starts) and not long else None
        if table is None:
            yield from _one_by_one(lines, starts, ends, origin, fields)
        else:
            yield fields.batch(origin, lines, starts, ends, table)


def _objects(data: bytes, starts: Offsets, ends: Offsets, names: list[str]) -> Any | None:
    """Returns the fields of a block whose lines are one object each, as a table of strings; None if it may be else.

    That lines and rows are as many proves nothing alone: an object may go over two lines while another line holds two.
    Only, between two lines that end in } and begin with { no object goes on, so each line holds one or more.
    """
    content = np.frombuffer(data, np.uint8)
    if not ((content[starts] == ord("{")).all() and (content[ends - 1] == ord("}")).all()):
        return None
    if not is_utf8_block(data) or _NULL_BETWEEN_OBJECTS.search(data):
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            # One block: pyarrow would cut where it likes, and refuse a line longer than its block.
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=pa.schema([(name, pa.string()) for name in names]), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowException, OSError):
        return None
    return table if len(table) == len(starts) else None


def _one_by_one(lines: Lines, starts: Offsets, ends: Offsets, origin: Origin, fields: Fields) -> Iterator[Batch]:
    gathered = Gathering(origin)
    names, limit = fields.names, origin.limits.max_record_bytes
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        line, key = lines.data[start:end], lines.offset + start
        if not line.strip():
            continue
        if len(line) > limit:
            gathered.bad(key, origin.too_long(len(line)), line[:1000], key)
            continue
        try:
            record = parse_line(line, names)
        except ValueError as error:
            gathered.bad(key, str(error), line, key)
            continue
        fields.add(gathered, key, record, line, key)
        yield from gathered.full()
    for cut in lines.cut:
        if cut.reason:
            gathered.damage(cut.offset, cut.reason, cut.data, cut.offset)
        else:
            gathered.bad(cut.offset, origin.too_long(), cut.data, cut.offset)
    yield from gathered.rest()


def parse_line(line: bytes, names: list[str]) -> Any:
    """Returns the value of a line: what orjson, Python's parser or pyarrow's takes, in this order.

    Python's takes half surrogate pairs, NaN and numbers of any length, which may stand in fields nobody asks for;
    pyarrow's takes any depth.

    Raises:
        ValueError: It is none; the message says why and where.
    """
    line = line.removeprefix(BYTE_ORDER_MARK)  # files joined end to end have one in mid-file
    try:
        return orjson.loads(line)
    except ValueError:
        pass
    try:
        return json.loads(line.decode(), parse_int=float)
    except (ValueError, RecursionError) as error:
        line = line.strip()
        table = _objects(line, np.zeros(1, np.int64), np.full(1, len(line), np.int64), names) if line else None
        if table is None:
            raise ValueError(not_json(error)) from None
        (record,) = table.to_pylist()
        return record
