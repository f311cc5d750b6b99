"""Which fields of a record, or which columns of a table, are its text, language and address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.sources.batches import BATCH_BYTES, Gathering, Origin, batch_of
from llmyard.sources.config import Files, HubDataset
from llmyard.sources.formats.lines import Lines, Offsets
from llmyard.sources.records import Batch, kind_of


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of fields.

    Attributes:
        texts: The first of these that is not empty is the text.
        language: Holds the language, if any field does.
        url: Holds the address, if any field does.
    """

    texts: tuple[str, ...]
    language: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, source: Files | HubDataset) -> Fields:
        """Returns the fields that a source's config names."""
        texts = source.text_fields if isinstance(source, Files) else (source.text_field,)
        return cls(texts, source.language_field, source.url_field)

    @property
    def names(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys(name for name in (*self.texts, self.language, self.url) if name is not None))

    @property
    def missing(self) -> str:
        """The reason for a record without a text."""
        return f"no text in any of the fields {', '.join(self.texts)}"

    def add(self, gathered: Gathering, key: int, record: Any, data: bytes | str, offset: int) -> None:
        """Adds a parsed record's document; a list of texts is joined by line feeds.

        Args:
            gathered: Where to add it.
            key: The record's number or offset.
            record: The parsed record.
            data: The record as it stands in the file, for the excerpt of a bad one.
            offset: Its place in the file.
        """
        if not isinstance(record, dict):
            gathered.bad(key, f"{self.missing}: the record is {kind_of(record)}", data, offset)
            return
        field = next((name for name in self.texts if record.get(name)), None)
        if field is None:
            gathered.bad(key, self.missing, data, offset)
            return
        text = record[field]
        if isinstance(text, list) and all(isinstance(part, str) for part in text):
            text = "\n".join(text)
        if not isinstance(text, str):
            gathered.bad(key, f"the field {field} holds {kind_of(text)}, not a text", data, offset)
            return
        language, url = _string(record, self.language), _string(record, self.url)
        gathered.add(key, text, offset=offset, language=language, url=url)

    def columns_of(self, schema: Any) -> tuple[list[str], str]:
        """Returns the names that a table's schema has, and what makes it impossible to read texts from it, or ""."""
        present = [name for name in self.names if name in schema.names]
        texts = [name for name in self.texts if name in present]
        if not texts:
            return present, f"{self.missing}; the columns are {', '.join(schema.names[:20])}"
        for name in texts:
            if _strings(pa.nulls(0, schema.field(name).type)) is None:
                return present, f"the column {name} holds {schema.field(name).type}, not texts"
        return present, ""

    def batches(self, origin: Origin, row: int, table: Any) -> Iterator[Batch]:
        """Yields the documents of a table, keyed by row number.

        Args:
            origin: The file's name and limits.
            row: Number of the table's first row in the file.
            table: A table with columns that :meth:`columns_of` accepted.
        """
        yield from self._sliced(origin, row, *self._columns(table))

    def batch(self, origin: Origin, lines: Lines, starts: Offsets, ends: Offsets, table: Any) -> Batch:
        """Returns the documents of a table that was parsed from a block of a file.

        Args:
            origin: The file's name and limits.
            lines: The block.
            starts: Where in the block each row's record begins.
            ends: Where it ends.
            table: A table of string columns.
        """
        text, language, url = self._columns(table)
        offsets = starts + lines.offset
        filled = np.asarray(pc.fill_null(pc.greater(pc.binary_length(text), 0), False))
        bad = [
            origin.bad(
                lines.offset + start, self.missing, lines.data[start : min(end, start + 1000)], lines.offset + start
            )
            for start, end in zip(starts[~filled].tolist(), ends[~filled].tolist(), strict=True)
        ]
        if bad:
            mask = pa.array(filled)
            text, language, url = (None if each is None else each.filter(mask) for each in (text, language, url))
            offsets = offsets[filled]
        return batch_of(origin, offsets, text, language, url, offsets=offsets, bad=bad)

    def _columns(self, table: Any) -> tuple[Any, Any, Any]:
        texts = [_strings(table[name]) for name in self.texts if name in table.column_names]
        if len(texts) > 1:
            texts = [pc.coalesce(*(pc.if_else(pc.equal(pc.binary_length(text), 0), None, text) for text in texts))]
        language, url = (
            _strings(table[name]) if name is not None and name in table.column_names else None
            for name in (self.language, self.url)
        )
        return texts[0], language, url

    def _sliced(self, origin: Origin, row: int, texts: Any, language: Any, url: Any) -> Iterator[Batch]:
        if len(texts) > 1 and (pc.sum(pc.binary_length(texts)).as_py() or 0) > 2 * BATCH_BYTES:
            half = len(texts) // 2
            for start, stop in ((0, half), (half, len(texts))):
                parts = (None if each is None else each[start:stop] for each in (language, url))
                yield from self._sliced(origin, row + start, texts[start:stop], *parts)
            return
        keys = np.arange(row, row + len(texts), dtype=np.int64)
        yield batch_of(origin, keys, texts, language, url, missing=self.missing)


def _strings(array: Any) -> Any | None:
    """Returns an array's texts, not yet checked to be UTF-8; lists are joined by line feeds; None for other types."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    types = pa.types
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_null(array.type):
        return array.cast(pa.string())
    if types.is_list(array.type) or types.is_large_list(array.type):
        value = array.type.value_type
        return pc.binary_join(array, "\n").cast(pa.string()) if types.is_string(value) else None
    if any(is_text(array.type) for is_text in (types.is_string, types.is_large_string, types.is_string_view)):
        return array.cast(pa.string())
    if any(is_bytes(array.type) for is_bytes in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return array.cast(pa.binary()).view(pa.string())
    return None


def _string(record: dict[str, Any], field: str | None) -> str:
    value = record.get(field) if field is not None else None
    return value if isinstance(value, str) else ""
