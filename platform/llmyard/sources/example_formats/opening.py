"""A file of examples, on any filesystem, compressed or not: its lines, its rows, or the one JSON document it is."""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from llmyard.core.errors import DataError
from llmyard.sources.config import Limits
from llmyard.sources.formats.lines import BYTE_ORDER_MARK, line_blocks
from llmyard.sources.records import Fault, not_json
from llmyard.sources.streams import RawFile, Stream, Unopenable

LIMITS = Limits()
# A JSON document is parsed as a whole: 1 GiB of it takes some 8 GiB of memory.
DOCUMENT = Limits(max_record_bytes=1 << 30)
_FREE_BYTES = 8 << 20  # below this a document may have shrunk as much as it likes
_HEAD_BYTES = 256
_LINE_BYTES = 1 << 18
# What the standard library raises for archives that are cut, changed or encrypted; OSError and ValueError come from
# seeking to where there is nothing.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
)


def lines_of(path: str) -> Iterator[tuple[int, bytes | Fault]]:
    """Yields each line with its number, without its line feed; one that is torn or too long as what is wrong with it.

    Raises:
        DataError: The file cannot be opened or read.
    """
    number = 0
    try:
        with Stream(path, LIMITS) as stream:
            for block in line_blocks(stream, 0, 0, LIMITS.max_record_bytes):
                for line in block.data.removesuffix(b"\n").split(b"\n") if block.data else ():
                    number += 1
                    yield number, line
                for cut in block.cut:
                    number += 1
                    yield number, Fault(cut.reason or f"is longer than {LIMITS.max_record_bytes:,} bytes")
    except Unopenable as error:
        raise _unopenable(path, error) from None


def texts_of(path: str) -> Iterator[tuple[int, str | Fault]]:
    """Yields each line as text, without what ends it.

    Raises:
        DataError: The file cannot be opened or read.
    """
    for number, line in lines_of(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        try:
            yield number, line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            yield number, Fault(f"not UTF-8 at byte {error.start}")


def rows_of(path: str) -> Iterator[tuple[int, Any]]:
    """Yields the rows of a file: a JSON value a line, or the items of the one list that it is; faults among them.

    Raises:
        DataError: The file cannot be opened or read.
    """
    if is_list(path):
        document = document_of(path)
        if isinstance(document, list):
            yield from enumerate(document, start=1)
        else:
            yield 0, document if isinstance(document, Fault) else Fault("the document is no list of records")
        return
    for number, line in lines_of(path):
        if isinstance(line, Fault):
            yield number, line
            continue
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, Fault(not_json(error))


def is_list(path: str) -> bool:
    """Returns whether a file of rows is one list: it begins with a bracket, and its first line is no JSON by itself.

    Raises:
        DataError: The file cannot be opened or read.
    """
    if path.endswith(".zip"):
        return True
    head = _head(path, _HEAD_BYTES)
    if not head.startswith(b"["):
        return False
    first, line_feed, rest = head.partition(b"\n")
    if not line_feed or not rest.strip():
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return False


def is_lines(path: str) -> bool:
    """Returns whether a file is surely no JSON document: its first line is JSON by itself, and there are more.

    Raises:
        DataError: The file cannot be opened or read.
    """
    if path.endswith(".zip"):
        return False
    first, _, rest = _head(path, _LINE_BYTES).partition(b"\n")
    if not first.strip() or not rest.strip():
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _head(path: str, size: int) -> bytes:
    try:
        with Stream(path, LIMITS) as stream:
            return stream.read(size).removeprefix(BYTE_ORDER_MARK).lstrip()
    except Unopenable as error:
        raise _unopenable(path, error) from None


def document_of(path: str) -> Any:
    """Returns the JSON value that a file is, or the one file in a ``.zip``; a Fault where it is none.

    Raises:
        DataError: The file cannot be opened or read.
    """
    try:
        data = _zipped(path) if path.endswith(".zip") else _whole(path)
    except Unopenable as error:
        raise _unopenable(path, error) from None
    if isinstance(data, Fault):
        return data
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        return Fault(not_json(error))


def _whole(path: str) -> bytes | Fault:
    with Stream(path, DOCUMENT) as stream:
        data = stream.whole()
        if stream.problem:
            return Fault(stream.problem)
    return Fault(_too_long()) if data is None else data


def _zipped(path: str) -> bytes | Fault:
    raw = RawFile(path)
    try:
        with zipfile.ZipFile(raw) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and not _is_aside(each.filename)]
            if len(members) != 1:
                return Fault(f"the archive holds {len(members)} files, not the one JSON document")
            (member,) = members
            if member.file_size > DOCUMENT.max_record_bytes:
                return Fault(_too_long())
            if member.file_size > max(_FREE_BYTES, LIMITS.max_decompressed_ratio * member.compress_size):
                return Fault(f"{member.compress_size:,} bytes in the archive grow to {member.file_size:,}: a bomb")
            with archive.open(member) as file:
                # What the archive says of sizes need not be true.
                data = file.read(DOCUMENT.max_record_bytes + 1)
            return data if len(data) <= DOCUMENT.max_record_bytes else Fault(_too_long())
    except _DAMAGE as error:
        raw.reraise()
        return Fault(f"the archive is damaged, encrypted or of an unknown kind: {error}")
    finally:
        raw.close()


def _is_aside(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def _too_long() -> str:
    return f"the document is longer than {DOCUMENT.max_record_bytes:,} bytes: divide it, or write it as JSON lines"


def _unopenable(path: str, error: Unopenable) -> DataError:
    return DataError(f"{path} {error}", "check the file, or leave it out")
