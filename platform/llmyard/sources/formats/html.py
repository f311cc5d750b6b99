"""Web pages: one a file, as they stand; and how the bytes of a page become a text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from llmyard.sources.batches import Gathering, Origin
from llmyard.sources.records import Batch
from llmyard.sources.streams import Stream

# The HTML standard has a page declare its encoding within its first 1,024 bytes; some begin with long comments.
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE
)
_DECLARED_WITHIN = 4096
# What the standard (WHATWG Encoding) reads under a name is more than the name's own repertoire.
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254"}
_NO_ENCODINGS = {"utf-7", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "charmap"}
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_page(stream: Stream, origin: Origin) -> Iterator[Batch]:
    """Yields the file's markup as one document."""
    gathered = Gathering(origin)
    data = stream.whole()
    if data is None:
        gathered.bad(0, origin.too_long(), b"", 0)
    elif stream.problem:
        gathered.bad(0, stream.problem, data, 0)
    else:
        try:
            gathered.add(0, decoded(data), offset=0)
        except UnicodeError as error:
            gathered.bad(0, str(error), data, 0)
    yield from gathered.rest()


def decoded(data: bytes, charset: str | None = None) -> str:
    """Returns a page's text in the encoding of its byte order mark, its HTTP header, its own declaration, or UTF-8.

    Encodings are not guessed: bytes that fit neither what is declared nor UTF-8 are refused.

    Args:
        data: The page.
        charset: What the HTTP header says.

    Raises:
        UnicodeError: They fit neither; the message names both.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _text(data[len(mark) :], name)
    declared = _DECLARED.search(data, 0, _DECLARED_WITHIN)
    names = [charset or "", declared[1].decode("ascii", "replace") if declared else "", "utf-8"]
    codec_names = list(dict.fromkeys(name for name in map(_codec, names) if name))
    for name in codec_names:
        try:
            return data.decode(name)
        except UnicodeError:
            continue
    return _text(data, *codec_names)


def _text(data: bytes, *names: str) -> str:
    try:
        return data.decode(names[0])
    except UnicodeDecodeError as error:
        others = "".join(f", nor {name}" for name in names[1:])
        raise UnicodeError(f"not {names[0].upper()} at byte {error.start}{others}") from None


def _codec(name: str) -> str:
    """Returns the Python codec for a declared encoding, "" if it is none that a page can be in."""
    try:
        codec = codecs.lookup(name.strip().strip("\"'"))
    except (LookupError, ValueError):
        return ""
    found = codec.name.replace("_", "-")
    if found in _NO_ENCODINGS or not getattr(codec, "_is_text_encoding", True):
        return ""
    # A page whose declaration could be read byte by byte is not in UTF-16, whatever it says.
    return _WIDER.get(found, "utf-8" if found.startswith(("utf-16", "utf-32")) else found)
