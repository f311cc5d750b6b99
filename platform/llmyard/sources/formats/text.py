"""Plain text: a document a file, or paragraphs gathered into documents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmyard.sources.batches import Gathering, Origin
from llmyard.sources.config import Files
from llmyard.sources.formats.lines import BLOCK_BYTES, BYTE_ORDER_MARK
from llmyard.sources.records import Batch
from llmyard.sources.streams import Stream

# White space of Unicode as UTF-8: a line of ideographic spaces (U+3000) is as empty as any other.
_SPACE = rb"(?:[\s\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
_LINE_END = rb"(?>\r\n?|\n)"  # atomic: the two halves of one CR LF are no empty line
_BETWEEN = re.compile(_LINE_END + _SPACE + rb"*" + _LINE_END)
# The same where there is no CR: a pattern with a fixed first byte is searched for several times as fast.
_BETWEEN_FEEDS = re.compile(rb"\n" + _SPACE + rb"*\n")
_GOES_ON = re.compile(_SPACE + rb"*+(?:\xc2|\xe1\x9a?|\xe2[\x80\x81]?|\xe3\x80?)?\Z")


def read_text(stream: Stream, origin: Origin, source: Files) -> Iterator[Batch]:
    """Yields the file's text, or its paragraphs gathered up to ``document_characters``; ids hold their number."""
    if source.document == "paragraph":
        yield from _paragraphs(stream, origin, source.document_characters)
        return
    gathered = Gathering(origin)
    data = stream.whole()
    if data is None:
        gathered.bad(0, origin.too_long(), b"", 0)
    elif stream.problem:
        gathered.bad(0, stream.problem, data, stream.position)
    else:
        try:
            text = unified(data.decode().removeprefix("\ufeff"))
            first, last = (int(share * len(text)) for share in source.part)
            gathered.add(0, text[first:last], offset=len(text[:first].encode()))
        except UnicodeDecodeError as error:
            gathered.bad(0, f"not UTF-8 at byte {error.start}", data[error.start :], error.start)
    yield from gathered.rest()


def unified(text: str) -> str:
    """Returns a text with line feeds for line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _paragraphs(stream: Stream, origin: Origin, limit: int) -> Iterator[Batch]:
    """Yields documents of as many paragraphs as fit into ``limit`` characters; a longer paragraph is one by itself."""
    gathered = Gathering(origin)
    held: list[str] = []
    number = size = begun = 0
    for piece, offset in _pieces(stream, origin.limits.max_record_bytes):
        if isinstance(piece, str):  # why there is no paragraph
            if piece:
                gathered.damage(number, piece, b"", offset)
            else:
                gathered.bad(number, origin.too_long(), b"", offset)
            continue
        try:
            paragraph = unified(piece.decode())
        except UnicodeDecodeError as error:
            place = offset + error.start
            gathered.bad(number, f"not UTF-8 at byte {place}", piece[error.start :], place)
            continue
        if held and size + len(paragraph) > limit:
            gathered.add(number, "\n\n".join(held), offset=begun)
            held, size, number = [], 0, number + 1
            yield from gathered.full()
        if not held:
            begun = offset
        held.append(paragraph)
        size += len(paragraph)
    if held:
        gathered.add(number, "\n\n".join(held), offset=begun)
    yield from gathered.rest()


def _pieces(stream: Stream, limit: int) -> Iterator[tuple[bytes | str, int]]:
    """Yields (paragraph, or why there is none ("": too long); its offset); no more than one paragraph is held."""
    data, at, skipping = b"", 0, False
    while True:
        chunk = stream.read(BLOCK_BYTES)
        data += chunk
        if not at:
            data, at = (data[3:], 3) if data.startswith(BYTE_ORDER_MARK) else (data, 0)
        start = 0
        for match in (_BETWEEN if b"\r" in data else _BETWEEN_FEEDS).finditer(data):
            if chunk and _GOES_ON.match(data, match.end()):
                break  # there may be more of the empty lines in the next block
            if match.start() > start and not skipping:
                yield data[start : match.start()], at + start
            start, skipping = match.end(), False
        if not chunk:
            break
        data, at = data[start:], at + start
        if len(data) > limit:
            if not skipping:
                yield "", at
            # A line end at the cut may belong to the empty line that ends the paragraph.
            data, at, skipping = data[-2:], at + len(data) - 2, True
    if stream.problem:
        yield stream.problem, at + start
    elif data[start:] and not skipping:
        yield data[start:], at + start
