"""Parquet by row groups, with page checksums verified where the file has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmyard.sources.batches import BATCH_BYTES, Origin, nothing_but
from llmyard.sources.fields import Fields
from llmyard.sources.records import Batch
from llmyard.sources.streams import RawFile, Unopenable

_BATCH_ROWS = 1 << 16


def read_parquet(path: str, start: int, stop: int, origin: Origin, fields: Fields) -> Iterator[Batch]:
    """Yields the documents of row groups ``start`` to ``stop`` (0: all); ids hold the number of the row in the file."""
    raw = RawFile(path)
    try:
        # A small buffer reads a column a megabyte at a time; without, pyarrow takes the whole column of a row group.
        file = pq.ParquetFile(pa.PythonFile(raw, mode="r"), page_checksum_verification=True, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raw.reraise()
        yield nothing_but(origin.bad(0, f"no Parquet file that can be read: {error}"))
        return
    names, problem = fields.columns_of(file.schema_arrow)
    if problem:
        yield nothing_but(origin.bad(0, problem))
        return
    groups = file.metadata.num_row_groups
    row = sum(file.metadata.row_group(group).num_rows for group in range(min(start, groups)))
    for group in range(start, min(stop or groups, groups)):
        described = file.metadata.row_group(group)
        done = 0
        try:
            for records in file.iter_batches(_rows(described), [group], names, use_threads=False):
                yield from fields.batches(origin, row + done, pa.Table.from_batches([records]))
                done += len(records)
        except (pa.ArrowException, OSError) as error:
            raw.reraise()
            lost = f"{described.num_rows - done} of {described.num_rows} rows of row group {group} are lost: {error}"
            yield nothing_but(origin.bad(row + done, lost, offset=_place(described)))
        row += described.num_rows


def row_group_sizes(path: str) -> list[int]:
    """Returns the compressed bytes of each row group; [] if the file cannot be read: its reader will say so."""
    try:
        with pq.ParquetFile(pa.PythonFile(RawFile(path), mode="r")) as file:
            metadata = file.metadata
    except (pa.ArrowException, OSError, Unopenable):
        return []
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return [sum(group.column(at).total_compressed_size for at in range(group.num_columns)) for group in groups]


def _rows(group: Any) -> int:
    return int(max(1, min(_BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size))))


def _place(group: Any) -> int:
    column = group.column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)
