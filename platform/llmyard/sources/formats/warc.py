"""WARC and WET archives (ISO 28500): web pages as a crawler met them, and the plain text made of them.

The records are cut here rather than by a library: what a damaged record costs is then that record, since the next one
is found by its first line, and every record has its offset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmyard.sources.batches import Gathering, Origin
from llmyard.sources.formats.html import decoded
from llmyard.sources.formats.http import Response, header_fields
from llmyard.sources.records import Batch
from llmyard.sources.streams import Stream

_BLOCK_BYTES = 1 << 20
_USUAL_HEADER_BYTES = 1 << 11
_MAX_HEADER_BYTES = 1 << 16
_BEGINNING = re.compile(rb"WARC/[01]\.\d+\r?\n")
_NEXT = re.compile(rb"(?<=\n)WARC/[01]\.\d+\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_BLANK = b"\r\n \t"
_FILLED = re.compile(rb"[^\r\n \t]")
_LONGEST_BEGINNING = 16
_KINDS = {"warc": "response", "wet": "conversion"}


def read_archive(stream: Stream, origin: Origin, wanted: str) -> Iterator[Batch]:
    """Yields the documents of an archive; ids hold the offset of their record after decompression.

    Args:
        stream: The file.
        origin: The file's name and limits.
        wanted: "warc": HTML responses as markup; "wet": conversion records as they stand.
    """
    gathered = Gathering(origin)
    window = _Window(stream)
    while window.skip_blank():
        offset = window.offset
        header = _header(window)
        if isinstance(header, str):
            gathered.bad(offset, header, window.peek(1000), offset)
            window.resync(1)
            continue
        fields, length = header
        kind = fields.get("warc-type", "").lower()
        if kind == _KINDS[wanted] and length <= origin.limits.max_record_bytes:
            body = window.peek(length)
            # A wrong length would swallow the records that follow: they are looked for from the body's first byte on.
            if len(body) < length or not _closed(window.peek(4, length), stream):
                reason = stream.problem or f"the record is cut short, or its length of {length} is wrong"
                gathered.bad(offset, reason, body, offset)
                window.resync()
                continue
            window.drop(length)
            _add(gathered, offset, fields, body, wanted, origin.limits.max_record_bytes)
            yield from gathered.full()
            continue
        if kind == _KINDS[wanted]:
            gathered.bad(offset, origin.too_long(length), fields.get("warc-target-uri", ""), offset)
        window.drop(length)
        if not _closed(window.peek(4), stream):
            gathered.bad(offset, stream.problem or f"the record's length of {length} is wrong", b"", offset)
            window.resync()
    if stream.problem:
        gathered.damage(window.offset, stream.problem, b"", window.offset)
    yield from gathered.rest()


def _header(window: _Window) -> tuple[dict[str, str], int] | str:
    """Takes a record's header off the window; returns its fields and the body's length, or what is wrong with it."""
    data = window.peek(_USUAL_HEADER_BYTES)
    if not _BEGINNING.match(data):
        return "no WARC record begins here"
    end = _HEADER_END.search(data)
    if end is None:
        data = window.peek(_MAX_HEADER_BYTES)
        end = _HEADER_END.search(data)
    if end is None or _NEXT.search(data, 1, end.end()):
        return "the WARC header has no end"
    fields = header_fields(data[: end.start()])
    length = fields.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,15}", length):
        return f"the WARC header does not give the record's length: {length!r}"
    window.drop(end.end())
    return fields, int(length)


def _closed(data: bytes, stream: Stream) -> bool:
    # Some writers leave out the last record's two line ends.
    return data in (b"\r\n\r\n", b"") or data[:2] == b"\n\n" or (not data.strip(_BLANK) and not stream.problem)


def _add(gathered: Gathering, offset: int, fields: dict[str, str], body: bytes, wanted: str, limit: int) -> None:
    url = fields.get("warc-target-uri", "").strip("<>")
    try:
        if wanted == "wet":
            gathered.add(offset, body.decode(), offset=offset, url=url)
            return
        response = Response.of(body, limit)
        if response.is_page:
            gathered.add(offset, decoded(response.content, response.charset), offset=offset, url=url)
    except UnicodeDecodeError as error:
        gathered.bad(offset, f"not UTF-8 at byte {error.start} of the record", body, offset)
    except ValueError as error:
        gathered.bad(offset, str(error), body, offset)


class _Window:
    """The part of an archive that is held.

    Attributes:
        offset: Place in the decompressed file of the next byte to handle.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data, self._at = b"", 0

    @property
    def offset(self) -> int:
        return self._stream.position - len(self._data) + self._at

    def need(self, size: int) -> None:
        """Reads on until so many bytes are held, or the file ends."""
        held = len(self._data) - self._at
        if held < size:
            pieces = [self._data[self._at :]]
            while held < size and (piece := self._stream.read(max(_BLOCK_BYTES, size - held))):
                pieces.append(piece)
                held += len(piece)
            self._data, self._at = b"".join(pieces), 0

    def peek(self, size: int, skip: int = 0) -> bytes:
        """Returns the next bytes, fewer at the end only."""
        self.need(skip + size)
        return self._data[self._at + skip : self._at + skip + size]

    def drop(self, size: int) -> None:
        """Goes on by so many bytes; they need not be held."""
        while size > len(self._data) - self._at:
            size -= len(self._data) - self._at
            self._data, self._at = self._stream.read(_BLOCK_BYTES), 0
            if not self._data:
                return
        self._at += size

    def skip_blank(self) -> bool:
        """Goes on to the next byte that is no white space; returns whether there is one."""
        while True:
            match = _FILLED.search(self._data, self._at)
            if match:
                self._at = match.start()
                return True
            self._data, self._at = self._stream.read(_BLOCK_BYTES), 0
            if not self._data:
                return False

    def resync(self, skip: int = 0) -> None:
        """Goes on to the next line that begins a record, ``skip`` bytes on or later, or to the end."""
        self.need(skip + _LONGEST_BEGINNING)
        at = self._at + skip
        if not skip and _BEGINNING.match(self._data, at):
            return
        while True:
            match = _NEXT.search(self._data, at)
            if match:
                self._at = match.start()
                return
            # A beginning may be cut by the end of what is held.
            self._at = max(at, len(self._data) - _LONGEST_BEGINNING)
            held = len(self._data) - self._at
            self.need(held + 1)
            if len(self._data) - self._at == held:
                self._at = len(self._data)
                return
            at = self._at
