"""What reading gives: documents as Arrow tables, task examples as records, and what could not be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

EXCERPT_CHARACTERS = 200

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that could not be read: where, and why.

    Attributes:
        path: The file.
        record: What stands after the ``#`` in the id that the record would have had.
        reason: What is wrong with it.
        offset: Its first byte in the file, after decompression; -1 where the format has no such place.
        excerpt: Its beginning, at most 200 characters; bytes that are no text are written ``\\xff``.
    """

    path: str
    record: int
    reason: str
    offset: int = -1
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something in a file is no record."""

    reason: str


# An example's number in its file, and the example, or why it is none.
Found = tuple[int, Record | Fault]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents of a unit.

    Attributes:
        table: Columns id, text, source, language ("" where unknown) and url ("" where unknown), all strings.
        bad: What could not be read on the way.
    """

    table: Any
    bad: list[BadRecord]


def excerpt_of(data: bytes | str) -> str:
    """Returns the beginning of a record, fit to be shown and written."""
    if isinstance(data, str):
        data = data[:EXCERPT_CHARACTERS].encode("utf-8", "backslashreplace")
    return data[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")[:EXCERPT_CHARACTERS]


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written: JSON may spell half of a surrogate pair, which no encoding takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_json(error: Exception) -> str:
    """Returns why something is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return "not JSON that can be read: " + ("nested too deeply" if isinstance(error, RecursionError) else str(error))


def kind_of(value: Any) -> str:
    """Returns what a parsed JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    names = {dict: "an object", list: "a list", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), type(value).__name__)
