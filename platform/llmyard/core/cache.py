"""Files of remote artifacts in a bounded folder that all processes of a machine share.

A file is fetched once, its checksum verified while it arrives, and named by it. Who uses a file holds a shared lock on
it (``flock``), which dies with its process; only what nobody holds is removed, the longest unused first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llmyard.core.artifact import CHUNK, FileEntry
from llmyard.core.errors import CorruptArtifact, LlmyardError, RequestError
from llmyard.core.storage import Storage, write_failed

DEFAULT_BYTES = 64 << 30
_FREE_SHARE = 0.8  # of what is free on the disk, where that is less
_ATTEMPTS = 2
_PART, _SIZES = ".part", ".sizes"


@dataclass
class Held:
    """A file that stays where it is until it is released.

    Attributes:
        path: Where it is read.
        size: Bytes.
    """

    path: Path
    size: int
    _lock: BinaryIO | None = None

    def release(self) -> None:
        """Lets the file be removed."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def machine_cache() -> NodeCache:
    """Returns this machine's cache: ``LLMYARD_CACHE`` (a folder), at most ``LLMYARD_CACHE_BYTES`` (64 GiB).

    Without ``LLMYARD_CACHE_BYTES`` it also leaves a fifth of the disk's free space.

    Raises:
        RequestError: ``LLMYARD_CACHE_BYTES`` is no number of bytes.
    """
    folder = Path(os.environ.get("LLMYARD_CACHE") or os.path.expanduser("~/.cache/llmyard"), "shards")
    folder.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("LLMYARD_CACHE_BYTES")
    if given:
        if not given.isdecimal() or not int(given):
            raise RequestError(f"LLMYARD_CACHE_BYTES={given!r} is no number of bytes", "for example 68719476736")
        return NodeCache(folder, int(given))
    there = sum(size for _, size, _ in _files(folder))
    return NodeCache(folder, min(DEFAULT_BYTES, there + int(_FREE_SHARE * shutil.disk_usage(folder).free)))


class NodeCache:
    """The cache in one folder.

    Args:
        folder: Where the files are; made if it is not there.
        limit: Most bytes of all files together, those that are arriving included.
        patience_seconds: How long to wait for others to release files before giving up.
    """

    def __init__(self, folder: Path, limit: int, patience_seconds: float = 60.0) -> None:
        self.folder, self.limit, self._patience = folder, limit, patience_seconds
        folder.mkdir(parents=True, exist_ok=True)

    def hold(self, storage: Storage, folder: str, entry: FileEntry, spare: Callable[[], bool] = lambda: False) -> Held:
        """Returns a file, fetched if it is not there.

        Args:
            storage: Where it comes from.
            folder: Of its artifact, in the storage.
            entry: The file.
            spare: Called where all room is in use: releases a file of the caller's, or says that there is none.

        Raises:
            CorruptArtifact: It is missing, or what arrives does not match its checksum.
            LlmyardError: There is no room for it, or the disk cannot be written.
        """
        target = self.folder / f"{entry.sha256}{Path(entry.path).suffix}"
        while True:
            held = _locked(target, fcntl.LOCK_SH)
            if held is not None:
                os.utime(target)  # the order of removal
                return Held(target, entry.size, held)
            part = target.with_name(target.name + _PART)
            mine = _locked(part, fcntl.LOCK_EX | fcntl.LOCK_NB, make=True)
            if mine is None:
                others = _locked(part, fcntl.LOCK_SH)  # another process fetches it: wait until it has, or died
                if others is not None:
                    others.close()
                continue
            try:
                if target.exists():
                    part.unlink()
                    continue
                self._fetch(storage, folder, entry, mine, part, spare)
                with self._sizes():  # who adds up the sizes shall see it under one of its names
                    os.rename(part, target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            finally:
                mine.close()

    def _fetch(
        self, storage: Storage, folder: str, entry: FileEntry, sink: BinaryIO, part: Path, spare: Callable[[], bool]
    ) -> None:
        os.ftruncate(sink.fileno(), 0)  # what a process that died left of it
        self._reserve(entry, sink, spare)
        where = f"{storage.uri}/{folder}/{entry.path}"
        failed: OSError | None = None
        for _ in range(_ATTEMPTS):
            try:
                data = _arriving(storage, f"{folder}/{entry.path}", entry.size)
                digest, size = hashlib.sha256(), 0
                sink.seek(0)
                for chunk in data:
                    digest.update(chunk)
                    size += len(chunk)
                    _write(sink, chunk, part)
            except FileNotFoundError:
                raise CorruptArtifact(f"{where} is missing", _REMAKE) from None
            except OSError as error:
                failed = error
                continue
            if size == entry.size and digest.hexdigest() == entry.sha256:
                _write(sink, b"", part, size)
                return
            failed = None
        if failed is not None:
            raise LlmyardError(f"cannot read {where}: {failed}", "check the storage and the network") from failed
        raise CorruptArtifact(f"{where} does not match its checksum", _REMAKE)

    def _reserve(self, entry: FileEntry, sink: BinaryIO, spare: Callable[[], bool]) -> None:
        """Makes room for a file and takes it by giving the arriving file its size."""
        began = time.monotonic()
        while not self._take_room(entry.size, sink):
            if spare():
                continue
            if entry.size > self.limit or time.monotonic() - began > self._patience:
                raise LlmyardError(
                    f"no room for {entry.path} ({entry.size:,} bytes) in {self.folder}: its {self.limit:,} bytes "
                    "are all in use",
                    "set LLMYARD_CACHE_BYTES to several files for each process of this machine",
                )
            time.sleep(0.05)

    @contextmanager
    def _sizes(self) -> Iterator[None]:
        with open(self.folder / _SIZES, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _take_room(self, wanted: int, sink: BinaryIO) -> bool:
        with self._sizes():
            files = _files(self.folder)
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total + wanted <= self.limit:
                    break
                lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:  # nobody holds it; a part that nobody holds was left by a process that died
                    path.unlink(missing_ok=True)
                    lock.close()
                    total -= size
            if total + wanted > self.limit:
                return False
            os.ftruncate(sink.fileno(), wanted)
            return True


_REMAKE = "check the storage, or remove the artifact with `llmyard artifacts remove` and run its job again"


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """Returns (time of the last use, bytes, path) of the files in a cache's folder."""
    found = []
    for item in folder.iterdir():
        try:
            stat = item.stat()
        except FileNotFoundError:  # removed or renamed meanwhile
            continue
        if item.name != _SIZES:
            found.append((stat.st_mtime_ns, stat.st_size, item))
    return found


def _arriving(storage: Storage, path: str, size: int) -> Iterator[bytes]:
    """Yields the content of a file, a little more than ``size`` bytes at most."""
    taken = 0
    with storage.open_input(path) as source:
        while taken <= size and (chunk := source.read(CHUNK)):
            taken += len(chunk)
            yield chunk


def _write(sink: BinaryIO, chunk: bytes, path: Path, size: int | None = None) -> None:
    """Writes a chunk; with the file's size, the last one, after which the file is on the disk."""
    try:
        sink.write(chunk)
        if size is not None:
            sink.truncate(size)
            sink.flush()
            os.fsync(sink.fileno())
    except OSError as error:
        raise write_failed(str(path), error) from error


def _locked(path: Path, kind: int, *, make: bool = False) -> BinaryIO | None:
    """Returns a file with a lock on it; None if it is not there, or locked by another and ``kind`` does not wait."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o644), "r+b")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, kind)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # else removed or renamed meanwhile
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            if not make:
                file.close()
                return None
        file.close()
