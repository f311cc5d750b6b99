"""Bytes on any pyarrow filesystem: a local path, s3://, gs://, hdfs://."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.errors import LlmyardError, RequestError

if TYPE_CHECKING:
    from pyarrow import fs

DEFAULT_STORAGE = ".llmyard"
Names = list[str]
_PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file as its filesystem lists it.

    Attributes:
        path: Path relative to the storage (or to the folder listed).
        size: Bytes.
        modified_ns: Time of the last change, 0 where the filesystem has none.
    """

    path: str
    size: int
    modified_ns: int


class Storage:
    """A folder on a filesystem; all paths given to it are relative, with ``/``.

    Args:
        uri: A local path or a URI that pyarrow knows.
    """

    def __init__(self, uri: str) -> None:
        self.is_local = "://" not in uri or uri.startswith("file://")
        self.uri = (
            os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))) if self.is_local else uri.rstrip("/")
        )

    @classmethod
    def resolve(cls, given: str | None = None, from_job: str | None = None) -> Storage:
        """Returns the storage to use: ``--storage`` > job file > ``LLMYARD_STORAGE`` > ``./.llmyard``."""
        return cls(given or from_job or os.environ.get("LLMYARD_STORAGE") or DEFAULT_STORAGE)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        from pyarrow import fs

        if self.is_local:
            return fs.LocalFileSystem(), self.uri
        try:
            return fs.FileSystem.from_uri(self.uri)  # type: ignore[no-any-return]
        except (ValueError, OSError, NotImplementedError) as error:
            raise RequestError(f"cannot open the storage {self.uri}: {error}", "give a path or a pyarrow URI") from None

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow filesystem below."""
        return self._opened[0]

    def path(self, *parts: str) -> str:
        """Returns the path of a file in the terms of :attr:`filesystem`."""
        return "/".join((self._opened[1].rstrip("/"), *parts))

    def local(self, *parts: str) -> Path:
        """Returns the local path of a file; an error on remote storage."""
        if not self.is_local:
            raise RequestError(f"{self.uri} is not on this machine", "use a local storage for this command")
        return Path(self.uri, *parts)

    def read(self, path: str) -> bytes | None:
        """Returns a file's bytes; None if there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.path(path), compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Writes a whole file so that a reader sees all of it or nothing.

        On a local disk by way of a temporary file that is forced to the disk; an object store puts at once by itself.
        """
        self._put(path, lambda file: file.write(data))

    def copy_in(self, file: Path, path: str) -> None:
        """Copies a local file to ``path``, a piece at a time; a reader sees all of it or nothing."""
        with open(file, "rb") as source:
            self._put(path, lambda sink: shutil.copyfileobj(source, sink, _PIECE))

    def _put(self, path: str, fill: Callable[[Any], object]) -> None:
        try:
            if not self.is_local:
                with self.filesystem.open_output_stream(self.path(path), compression=None) as stream:
                    fill(stream)
                return
            target = Path(self.uri, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                with open(temporary, "wb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise write_failed(f"{self.uri}/{path}", error) from error

    def list(self, path: str, *, recursive: bool = False) -> Iterator[FileStat]:
        """Yields the files below a folder, by path; nothing if the folder does not exist."""
        from pyarrow import fs

        root = self.path(path)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=recursive)
        found = [item for item in self.filesystem.get_file_info(selector) if item.type == fs.FileType.File]
        for item in sorted(found, key=lambda entry: str(entry.path)):
            yield FileStat(item.path[len(root) :].lstrip("/"), item.size or 0, item.mtime_ns or 0)

    def folders(self, path: str) -> Names:
        """Returns the names of the folders directly in a folder."""
        from pyarrow import fs

        selector = fs.FileSelector(self.path(path), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(item.base_name for item in infos if item.type == fs.FileType.Directory)

    def delete(self, path: str) -> None:
        """Removes a file, if it is there."""
        try:
            self.filesystem.delete_file(self.path(path))
        except FileNotFoundError:
            return

    def delete_folder(self, path: str) -> None:
        """Removes a folder and all in it, if it is there."""
        try:
            self.filesystem.delete_dir(self.path(path))
        except FileNotFoundError:
            return

    def makedirs(self, path: str) -> None:
        """Makes a folder and its parents."""
        try:
            self.filesystem.create_dir(self.path(path), recursive=True)
        except OSError as error:
            raise write_failed(f"{self.uri}/{path}", error) from error

    def open_input(self, path: str) -> Any:
        """Opens a file for random reading."""
        return self.filesystem.open_input_file(self.path(path))


def write_failed(path: str, error: OSError) -> LlmyardError:
    """Returns the error to raise when ``path`` could not be written, with the remedy for its cause."""
    remedies = {28: "free some disk space", 30: "the file system is read-only: give another --storage"}
    remedy = remedies.get(error.errno or 0, "check the rights and the space there, or give another --storage")
    return LlmyardError(f"cannot write {path}: {error.strerror or error}", remedy)
