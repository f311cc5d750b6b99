"""JSON files: a list of records, one record, or several in a row; read one by one, so that size is no matter."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from llmyard.sources.batches import Gathering, Origin
from llmyard.sources.fields import Fields
from llmyard.sources.formats.lines import BLOCK_BYTES
from llmyard.sources.records import Batch, not_json
from llmyard.sources.streams import Stream

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_int=float)  # numbers of any length: Python refuses integers over 4,300 digits


def read_json(stream: Stream, origin: Origin, fields: Fields) -> Iterator[Batch]:
    """Yields the documents of a JSON file; ids hold the record's number. What follows damage is lost."""
    gathered = Gathering(origin)
    values = _Values(stream, origin)
    while True:
        try:
            found = values.next()
        except ValueError as error:
            gathered.damage(values.number, str(error), values.ahead(), values.offset)
            break
        if found is None:
            break
        value, text, offset = found
        fields.add(gathered, values.number - 1, value, text, offset)
        yield from gathered.full()
    yield from gathered.rest()


class _Values:
    """The values of a JSON file one after the other.

    Attributes:
        number: How many values were given.
        offset: Place of the next character in the file, in bytes.
    """

    def __init__(self, stream: Stream, origin: Origin) -> None:
        self._stream, self._origin = stream, origin
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._position = "", 0, 0
        self._damage = ""
        self._ended = self._in_list = self._begun = False
        self.number = self.offset = 0

    def next(self) -> tuple[Any, str, int] | None:
        """Returns the next value, its text and its offset; None after the last.

        Raises:
            ValueError: The file is no JSON from here on.
        """
        self._skip()
        if not self._begun:
            self._begun = True
            if self._peek() == "\ufeff":
                self._take(1)
                self._skip()
            if self._peek() == "[":
                self._in_list = True
                self._take(1)
        elif self._in_list and self._peek() == ",":
            self._take(1)
            self._skip()
            if self._peek() == "]":
                raise ValueError(f"not JSON: no value after the comma at byte {self.offset}")
        elif self._in_list and self._peek() not in ("]", ""):
            raise ValueError(f"not JSON: no comma between two records at byte {self.offset}")
        self._skip()
        if self._in_list and self._peek() == "]":
            self._in_list = False
            self._take(1)
            self._skip()
            if self._peek():
                raise ValueError(f"not JSON: more data after the end of the list at byte {self.offset}")
            return None
        if not self._peek():
            if self._in_list or not self.number:
                raise ValueError(self._problem or f"not JSON: the file ends at byte {self.offset}")
            if self._problem:
                raise ValueError(self._problem)
            return None
        return self._value()

    def _value(self) -> tuple[Any, str, int]:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not isinstance(error, RecursionError) and self._more():
                    continue  # the value may be cut by the end of what is here
                if self._problem:
                    raise ValueError(self._problem) from None
                raise ValueError(f"{not_json(error)}; the value begins at byte {self.offset}") from None
            # A number at the end of what is here may go on.
            if end == len(self._text) and self._more():
                continue
            text, offset = self._text[self._at : end], self.offset
            self._take(end - self._at)
            self.number += 1
            return value, text, offset

    def ahead(self) -> str:
        """Returns what comes next, for an excerpt."""
        return self._text[self._at : self._at + 1000]

    def _peek(self) -> str:
        while self._at == len(self._text):
            if not self._more():
                return ""
        return self._text[self._at]

    def _skip(self) -> None:
        while True:
            match = _SPACE.match(self._text, self._at)
            self._take((match.end() if match else self._at) - self._at)
            if self._at < len(self._text) or not self._more():
                return

    def _take(self, characters: int) -> None:
        taken = self._text[self._at : self._at + characters]
        self.offset += len(taken) if taken.isascii() else len(taken.encode())
        self._at += characters

    def _more(self) -> bool:
        """Reads on; as much again as is held, so that a long value is tried a few times only."""
        if self._ended:
            return False
        held = len(self._text) - self._at
        if held > self._origin.limits.max_record_bytes:
            raise ValueError(self._origin.too_long())
        data = self._decoder.getstate()[0] + self._stream.read(max(BLOCK_BYTES, held))
        self._decoder.reset()
        self._ended = not data or self._stream.position == self._position
        self._position = self._stream.position
        try:
            text = self._decoder.decode(data, final=self._ended and not self._problem)
        except UnicodeDecodeError as error:
            self._ended = True
            self._damage = f"not UTF-8 at byte {self._position - len(data) + error.start}"
            text = data[: error.start].decode()
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text) or self._more()

    @property
    def _problem(self) -> str:
        return self._damage or self._stream.problem
