"""Ends a worker that makes no step any more, after it has written down where it hangs."""

from __future__ import annotations

import faulthandler
import time
from typing import IO

HUNG = "Timeout ("
"""How Python begins the stacks that it writes when the time is over."""


class Watchdog:
    """Waits for beats from the first one on; when none comes for a while, the stacks of all threads are written and the
    process ends.

    Python's own ``faulthandler`` does both outside the interpreter, so a thread that never gives the lock back, or a
    message of the process group that never comes, cannot stop it. The other workers wait for this one: they end in the
    same way, each with its own stacks, or by the connection that breaks. Then Ray starts all again.

    Args:
        seconds: Without a beat; None watches nothing.
        file: An open file, for the stacks.
    """

    def __init__(self, seconds: float | None, file: IO[str]) -> None:
        self._seconds, self._file = seconds, file
        self._last = 0.0

    def beat(self) -> None:
        """Says that all is well, and begins the watch; cheap enough for every step."""
        now = time.monotonic()
        if self._seconds is not None and now - self._last > min(1.0, self._seconds / 10):
            self._last = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def close(self) -> None:
        """Ends the watch for good."""
        if self._seconds is not None:
            self._seconds = None
            faulthandler.cancel_dump_traceback_later()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
