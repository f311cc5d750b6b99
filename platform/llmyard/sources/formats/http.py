"""An HTTP response as an archive holds it: is it a web page, and what are its bytes."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,200}\r?\n")
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        is_page: It was successful and is HTML.
        content: Its body, with transfer and content encodings undone.
        charset: The character set that its header names.
    """

    is_page: bool
    content: bytes
    charset: str | None

    @classmethod
    def of(cls, data: bytes, limit: int) -> Response:
        """Returns the response in these bytes.

        Args:
            data: Status line, header and body.
            limit: Most bytes that the body may decompress to.

        Raises:
            ValueError: They are no HTTP response, or the body of a page cannot be decoded.
        """
        end = _HEADER_END.search(data)
        status = re.match(rb"HTTP/\d(?:\.\d)? (\d{3})", data)
        if end is None or status is None:
            raise ValueError("no HTTP response")
        fields = header_fields(data[: end.start()])
        kind = fields.get("content-type", "").lower()
        if not status[1].startswith(b"2") or not kind.startswith(_PAGES):
            return cls(False, b"", None)
        content = data[end.end() :]
        if "chunked" in fields.get("transfer-encoding", "").lower():
            content = _joined(content)
        content = _inflated(content, fields.get("content-encoding", "").lower().strip(), limit)
        charset = _CHARSET.search(kind)
        return cls(True, content, charset[1] if charset else None)


def header_fields(data: bytes) -> dict[str, str]:
    """Returns the fields of a WARC or HTTP header by their names in lower case, without its first line."""
    fields: dict[str, str] = {}
    for line in data.splitlines()[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.strip().decode("latin-1").lower(), value.strip().decode("utf-8", "replace"))
    return fields


def _joined(content: bytes) -> bytes:
    """Returns a chunked body's content; as it is where it is not chunked: crawlers undo that, but not the header."""
    pieces: list[bytes] = []
    at = 0
    while match := _CHUNK.match(content, at):
        size = int(match[1], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(content[match.end() : match.end() + size])
        at = match.end() + size
        at += 2 if content[at : at + 2] == b"\r\n" else 1
    if pieces:
        raise ValueError(f"the chunked body is damaged at byte {at}")
    return content


def _inflated(content: bytes, encoding: str, limit: int) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        if not content.startswith(b"\x1f\x8b"):
            return content  # the crawler has undone it, but not the header
        forms = [zlib.MAX_WBITS | 16]
    elif encoding == "deflate":
        # The standard means zlib's format; some servers send the bare one.
        forms = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
    elif encoding in ("", "identity", "none", "utf-8") or content.lstrip()[:1] == b"<":
        return content
    else:
        raise ValueError(f"the body is encoded as {encoding}, which cannot be undone here")
    problem = "it ends early"
    for form in forms:
        inflater = zlib.decompressobj(form)
        try:
            whole = inflater.decompress(content, limit + 1)
        except zlib.error as error:
            problem = str(error)
            continue
        if len(whole) > limit:
            raise ValueError(f"the body decompresses to more than max_record_bytes = {limit:,}")
        if inflater.eof:
            return whole
    if encoding == "deflate" and content.lstrip()[:1] == b"<":
        return content
    raise ValueError(f"the body cannot be decompressed: {problem}")
