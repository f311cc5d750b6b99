"""An append-only file of metrics between a training loop and a slow or absent tracking server.

`append` costs the loop one queue operation. One thread writes; a reader sends batches and moves the acknowledged
offset. Nothing is ever rewritten: a resume appends a marker that voids the lines beyond its checkpoint, so a kill at
any moment leaves a file that reads the same way again. Lines that were handed to a send stay valid, because MLflow
may have them: sent again with their first timestamp they are the same rows to it, not duplicates.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import queue
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from llmyard.core.errors import Busy, DataError
from llmyard.core.tracking import Line, metric_key

_log = logging.getLogger(__name__)

SEGMENT_BYTES = 8 << 20
_STATE_FORMAT = b"llmyard-spool-1\n"
_GATHER_SECONDS = 0.05  # one wake-up for many lines: a wake-up a line would compete with the loop for the GIL
_YIELD_EVERY = 16  # lines encoded before the writer offers the GIL: some 0.1 ms

_open_here: set[str] = set()  # POSIX locks do not exclude a second spool in the same process
_open_lock = threading.Lock()


class _Void(NamedTuple):
    """Lines in [start, end) with a step beyond `step` do not count."""

    start: int
    end: int
    step: int


class Spool:
    """Metrics on disk, in order, with an acknowledged offset.

    Offsets count bytes since the spool was made; whole segments below the acknowledged offset are deleted.

    Args:
        directory: Made if missing; belongs to one open spool at a time.
        wait_seconds: How long to wait for a process that still holds the directory.
        fsync_seconds: Least time between two fsyncs. A killed process loses nothing that was written; a power cut may
            lose this much.

    Raises:
        Busy: Another spool holds the directory.
    """

    def __init__(self, directory: str | Path, *, wait_seconds: float = 20.0, fsync_seconds: float = 1.0) -> None:
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = self._acquire(wait_seconds)
        self._fsync_seconds = fsync_seconds
        self._guard = threading.RLock()
        self._voids: list[_Void] = []
        self._acked = self._attempted = 0
        self._recover()
        self._queue: queue.SimpleQueue[tuple[int, int, dict[str, float]] | threading.Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._closed = False
        self._writer = threading.Thread(target=self._write_forever, name="llmyard-spool", daemon=True)
        self._writer.start()

    # ---- the loop's side

    def append(self, step: int, metrics: Mapping[str, float], timestamp_ms: int | None = None) -> None:
        """Queues one line; returns at once."""
        self._queue.put((step, time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms, dict(metrics)))

    def flush(self, timeout: float = 30.0) -> bool:
        """Waits until all that was appended is on disk; False if the disk did not take it in time."""
        if not self._writer.is_alive():
            return False
        written = threading.Event()
        self._queue.put(written)
        self._hurry.set()
        return written.wait(timeout)

    def truncate_after(self, step: int) -> None:
        """Drops the training metrics beyond `step` that no send has seen; the loop will log those steps again."""
        self.flush()
        with self._guard:
            self._append_void(_Void(self._attempted, self._end, step))

    def unsent(self) -> bytes:
        """All lines not acknowledged, compressed, for `restore` on this or another machine."""
        self.flush()
        with self._guard:
            lines = [_encode(line) for line, _ in self._lines(self._acked)]
        return zlib.compress(_STATE_FORMAT + b"".join(lines), 1) if lines else b""

    def restore(self, state: bytes) -> int:
        """Appends those lines of an `unsent()` that are not here; returns how many.

        Raises:
            DataError: The bytes are not an `unsent()` of this format.
        """
        if not state:
            return 0
        try:
            head, _, body = zlib.decompress(state).partition(b"\n")
        except zlib.error as error:
            raise DataError(f"the tracking state in the checkpoint is damaged: {error}", "resume without it") from error
        if head + b"\n" != _STATE_FORMAT:
            raise DataError(f"tracking state of unknown format {head!r}", "resume with the llmyard that wrote it")
        self.flush()
        with self._guard:
            here = {_encode(line) for line, _ in self._lines(self._base)}
            missing = [text for text in body.splitlines(keepends=True) if text not in here]
            self._write(b"".join(missing))
            os.fsync(self._file)
        return len(missing)

    # ---- the sender's side

    def read(self, offset: int | None = None, limit: int = 1000) -> tuple[list[Line], int]:
        """Lines from `offset` (default: the acknowledged one) on, and the offset behind them.

        Args:
            offset: Where to begin.
            limit: Most metrics (not lines) in the answer; a single line with more comes alone.
        """
        with self._guard:
            position = self._acked if offset is None else offset
            lines: list[Line] = []
            count = 0
            for line, behind in self._lines(position, keep_void=True):
                if not self._is_void(line, behind):
                    if lines and count + len(line.metrics) > limit:
                        break
                    lines.append(line)
                    count += len(line.metrics)
                position = behind
            return lines, (position if lines else self._end)

    def attempt(self, offset: int) -> None:
        """Notes that lines up to `offset` may reach MLflow: from now on no truncation drops them."""
        with self._guard:
            if offset > self._attempted:
                self._attempted = offset
                self._save_offsets()

    def acknowledge(self, offset: int) -> None:
        """Notes that MLflow has everything up to `offset`, and deletes segments nobody needs."""
        with self._guard:
            self._acked = max(self._acked, offset)
            self._attempted = max(self._attempted, self._acked)
            self._save_offsets()
            self._voids = [void for void in self._voids if void.end > self._acked]
            segments = self._segments()
            for base, following in itertools.pairwise(segments):
                if following <= self._acked:
                    self._path(base).unlink(missing_ok=True)
                    self._base = following

    def reject(self, lines: list[Line], offset: int, reason: str) -> None:
        """Sets lines aside in `rejected.jsonl`, which MLflow refuses for good, and goes on behind them."""
        with open(self.directory / "rejected.jsonl", "ab") as out:
            out.write(json.dumps({"reason": reason}).encode() + b"\n" + b"".join(map(_encode, lines)))
        self.acknowledge(offset)

    def is_empty(self) -> bool:
        """True if everything on disk is acknowledged."""
        return not self.read()[0]

    def close(self) -> None:
        """Writes what is queued and lets the directory go."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        self._queue.put(None)
        self._hurry.set()
        self._writer.join(timeout=10)
        with contextlib.suppress(OSError):
            os.close(self._file)
        with _open_lock:
            os.close(self._lock_file)
            _open_here.discard(str(self.directory))

    def remove(self) -> bool:
        """Closes the spool and deletes its directory, unless there is something left to send or to look at."""
        done = self.flush() and self.is_empty() and not (self.directory / "rejected.jsonl").exists()
        if done:  # under the lock, so that no other process has just begun to use it
            shutil.rmtree(self.directory, ignore_errors=True)
        self.close()
        return done

    # ---- on disk

    def _acquire(self, wait_seconds: float) -> int:
        give_up = time.monotonic() + wait_seconds
        while True:
            with _open_lock:
                if str(self.directory) not in _open_here:
                    self.directory.mkdir(parents=True, exist_ok=True)
                    handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    try:
                        # lockf, not flock: a forked data loader would inherit a flock and hold it after we are gone.
                        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        if (
                            os.stat(self.directory / "lock").st_ino == os.fstat(handle).st_ino
                        ):  # else `remove` took it away
                            _open_here.add(str(self.directory))
                            return handle
                    except OSError:
                        pass
                    os.close(handle)
            if time.monotonic() > give_up:
                raise Busy(
                    f"another process writes the metrics spool {self.directory}", "wait until that run has ended"
                )
            time.sleep(0.1)

    def _path(self, base: int) -> Path:
        return self.directory / f"{base:020d}.jsonl"

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self.directory.glob("0*.jsonl"))

    def _recover(self) -> None:
        """Reads offsets and markers, and cuts a torn last line."""
        segments = self._segments() or [0]
        self._base, newest = segments[0], self._path(segments[-1])
        self._file = os.open(newest, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        text = newest.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(self._file, whole)
        self._segment, self._end = segments[-1], segments[-1] + whole
        offsets = {"acknowledged": self._base, "attempted": self._base}
        with contextlib.suppress(OSError, ValueError):
            offsets |= json.loads((self.directory / "offsets.json").read_text())
        # After a power cut the offsets may be newer than the lines: never point behind the end.
        self._acked = max(self._base, min(self._end, offsets["acknowledged"]))
        self._attempted = max(self._acked, min(self._end, offsets["attempted"]))
        for text, _ in self._texts(self._acked):
            if text.startswith(b"{"):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._voids.append(_Void(*json.loads(text)["void"]))

    def _save_offsets(self) -> None:
        # No fsync: a killed process loses nothing by it, and after a power cut MLflow's own last steps are asked
        # anyway.
        temporary = self.directory / "offsets.tmp"
        temporary.write_text(json.dumps({"acknowledged": self._acked, "attempted": self._attempted}))
        temporary.replace(self.directory / "offsets.json")

    def _start_segment(self) -> None:
        following = os.open(self._path(self._end), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fsync(self._file)
        os.close(self._file)
        self._segment, self._file = self._end, following

    def _append_void(self, void: _Void) -> None:
        if void.start < void.end:
            self._write(json.dumps({"void": void}).encode() + b"\n")
            self._voids.append(void)

    def _write(self, text: bytes) -> None:
        """Appends whole lines or nothing."""
        if self._end - self._segment > SEGMENT_BYTES:
            self._start_segment()
        view = memoryview(text)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end - self._segment)
            raise
        self._end += len(text)

    def _texts(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Raw lines from `offset` on, each with the offset behind it."""
        segments = self._segments()
        for base, following in zip(segments, [*segments[1:], self._end], strict=True):
            if following <= offset:
                continue
            position = max(base, offset)
            with open(self._path(base), "rb") as source:
                source.seek(position - base)
                for text in source:
                    position += len(text)
                    if position > self._end or not text.endswith(b"\n"):
                        return
                    yield text, position

    def _lines(self, offset: int, keep_void: bool = False) -> Iterator[tuple[Line, int]]:
        for text, behind in self._texts(offset):
            if not text.startswith(b"["):
                continue
            try:
                line = Line(*json.loads(text))
            except (ValueError, TypeError):
                _log.warning("skipped a damaged line before byte %d of %s", behind, self.directory)
                continue
            if keep_void or not self._is_void(line, behind):
                yield line, behind

    def _is_void(self, line: Line, behind: int) -> bool:
        return any(v.start < behind <= v.end and line.step > v.step for v in self._voids) and not line.is_system

    # ---- the writer thread

    def _write_forever(self) -> None:
        last_sync = 0.0
        while True:
            item = self._queue.get()
            if not isinstance(item, threading.Event) and item is not None:
                self._hurry.wait(_GATHER_SECONDS)
            self._hurry.clear()
            texts: list[bytes] = []
            waiting: list[threading.Event] = []
            stop = False
            for count in range(1, 1_000_000):
                if item is None:
                    stop = True
                elif isinstance(item, threading.Event):
                    waiting.append(item)
                elif text := _encode_queued(item):
                    texts.append(text)
                if count % _YIELD_EVERY == 0:
                    time.sleep(0)  # gives the GIL to a loop that waits for it; without this, its worst wait is 5 ms
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._persist(b"".join(texts))
            now = time.monotonic()
            if waiting or now - last_sync >= self._fsync_seconds:
                last_sync = now
                with contextlib.suppress(OSError):
                    os.fsync(self._file)
            for event in waiting:
                event.set()
            if stop:
                return

    def _persist(self, text: bytes) -> None:
        """Writes, however long the disk stays full: training goes on, the lines wait in memory."""
        pause = 0.2
        while text:
            try:
                with self._guard:
                    self._write(text)
                return
            except OSError as error:
                if pause < 0.3 or self._closed:
                    _log.warning("cannot write metrics to %s: %s; they wait in memory", self.directory, error)
                if self._closed:
                    return
                time.sleep(pause)
                pause = min(pause * 2, 10.0)


def _encode(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _encode_queued(item: tuple[int, int, dict[str, float]]) -> bytes:
    step, timestamp_ms, metrics = item
    values: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            values[metric_key(name)] = float(value)
        except (TypeError, ValueError):
            _log.warning("metric %r is not a number: %r", name, value)
    return _encode(Line(int(step), int(timestamp_ms), values)) if values else b""
