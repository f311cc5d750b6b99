"""The bytes of one file, decompressed piece by piece, with a guard against bombs and a note of where damage begins."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from llmyard.core.errors import DataError
from llmyard.core.files import codec_of, opened
from llmyard.sources.config import Limits

# A reader asks for at most so much at once from a compressed file; what is beyond a damaged place is at most this.
_PIECE = 1 << 16
# Small files of one repeated line compress a thousandfold and harm nobody; the ratio is looked at from here on.
_FREE_BYTES = 8 << 20


class Unopenable(Exception):
    """The file is there, but cannot be opened."""


class RawFile:
    """A file of a pyarrow filesystem as a Python file that counts bytes and keeps its own errors.

    A decoder above it (gzip, Parquet) reports a failed disk and damaged content with one exception type: with
    :attr:`error` one can tell the two apart, and only the second is quarantined.

    Raises:
        DataError: The file does not exist.
        Unopenable: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        filesystem, inner = opened(path)
        try:
            self._file: Any = filesystem.open_input_file(inner)
        except FileNotFoundError as error:
            raise DataError(f"cannot read {path}: no such file", "was it moved while the job ran?") from error
        except OSError as error:
            raise Unopenable(f"cannot be opened: {error}") from error
        self.path = path
        self.taken = 0
        self.error: OSError | None = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes."""
        try:
            data: bytes = self._file.read(None if size < 0 else size)
        except OSError as error:
            self.error = error
            raise
        self.taken += len(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Moves to a byte."""
        return int(self._file.seek(position, whence))

    def tell(self) -> int:
        """Returns the place of the next byte."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self.closed = True
        self._file.close()

    def reraise(self) -> None:
        """Raises what a decoder above has met, if the disk or the network is to blame.

        Raises:
            DataError: A read failed.
        """
        if self.error is not None:
            raise DataError(
                f"cannot read {self.path}: {self.error}", "check the disk or the network, and run the job again"
            ) from self.error


class Stream:
    """A file's bytes in order, decompressed.

    Args:
        path: A local path or a URI; ``.gz`` and ``.zst`` are decompressed.
        limits: How much a file may grow.
        start: First byte to read, of a file that is not compressed.

    Attributes:
        position: Place of the next byte in the decompressed file.
        problem: Why the file ends before its end: damage or a bomb; "" if it does not.
    """

    def __init__(self, path: str, limits: Limits, start: int = 0) -> None:
        self._path, self._limits, self._codec = path, limits, codec_of(path)
        self._raw, self._source = self._open()
        if start:
            self._raw.seek(start)
        self.position = start
        self.problem = ""

    def _open(self) -> tuple[RawFile, Any]:
        raw = RawFile(self._path)
        return raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), self._codec) if self._codec else raw

    def read(self, size: int) -> bytes:
        """Returns the next ``size`` bytes, fewer at the end only; b"" after the end.

        Raises:
            DataError: The disk or the network failed.
        """
        pieces: list[bytes] = []
        left = size
        while left > 0 and not self.problem:
            piece = self._piece(min(left, _PIECE) if self._codec else left)
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        try:
            data: bytes = self._source.read(size)
        except OSError as error:
            self._raw.reraise()
            self.problem = f"the compressed data is damaged or cut short here: {error}"
            data = self._before_damage(size)
        self.position += len(data)
        if self._codec and not self.problem:
            self._guard()
        return data

    def _guard(self) -> None:
        limits, grown = self._limits, self.position
        if grown > limits.max_decompressed_bytes:
            self.problem = f"decompresses to more than max_decompressed_bytes = {limits.max_decompressed_bytes:,}"
        elif grown > _FREE_BYTES and grown > limits.max_decompressed_ratio * max(1, self._raw.taken):
            self.problem = (
                f"{self._raw.taken:,} bytes decompress to {grown:,} and more, over the "
                f"max_decompressed_ratio of {limits.max_decompressed_ratio:g}"
            )

    def _before_damage(self, size: int) -> bytes:
        # The decoder drops what it had of a piece when it meets damage. A second decoder goes to the same place, and
        # on from there byte by byte, so that no whole record is lost.
        _, again = self._open()
        left = self.position
        while left:
            left -= len(again.read(min(left, 1 << 20)))
        kept = bytearray()
        try:
            while len(kept) < size and (byte := again.read(1)):
                kept += byte
        except OSError:
            pass
        return bytes(kept)

    def whole(self) -> bytes | None:
        """Returns all that is left; None if it is more than ``max_record_bytes``."""
        data = self.read(self._limits.max_record_bytes + 1)
        return data if len(data) <= self._limits.max_record_bytes else None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
