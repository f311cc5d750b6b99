"""A command that chaos tests kill, and the processes below it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

MARKER = "LLMYARD_CHAOS"
_SESSION = re.compile(r"/tmp/ly-\w+")


class Command:
    """One `llmyard run`, and the processes below it."""

    def __init__(
        self,
        job: Path,
        storage: Path,
        log: Path,
        marker: str,
        seen: dict[int, float],
        *more: str,
        **environment: str,
    ) -> None:
        self._log, self._seen, self._at = log, seen, 0.0
        self.family: list[psutil.Process] = []
        self.session: Path | None = None
        command = [str(Path(sys.executable).with_name("llmyard")), "run", str(job), "--storage", str(storage), *more]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | {MARKER: marker} | environment
            )

    def refresh(self, every: float = 0.5) -> None:
        """Notes all processes below, not more often than `every` seconds."""
        if time.monotonic() - self._at > every:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.family = psutil.Process(self.process.pid).children(recursive=True)
                self._seen.update({each.pid: each.create_time() for each in self.family})
            node = self.victim("node", "")
            if node is not None and (found := _SESSION.search(title(node))):
                self.session = Path(found[0])
            self._at = time.monotonic()

    def running(self, beginning: str) -> list[psutil.Process]:
        """Returns the processes whose titles begin so."""
        return [each for each in self.family if title(each).startswith(beginning)]

    def victim(self, role: str, worker: str) -> psutil.Process | None:
        """Returns the process to kill; None if there is none at the moment.

        Args:
            role: ``driver``, ``node``, or ``worker``.
            worker: How a worker's title begins.
        """
        if role == "driver":
            return psutil.Process(self.process.pid)
        if role == "worker":
            return next(iter(self.running(worker)), None)
        return next((each for each in self.family if title(each).partition(" ")[0].endswith("/raylet")), None)

    def output(self) -> str:
        """Returns what it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")


def alive(marker: str, seen: dict[int, float]) -> list[psutil.Process]:
    """Returns the processes that still run, of those that were seen or carry a marker in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            known = abs(seen.get(process.pid, 0.0) - process.create_time()) < 1.0
            ours = known or process.environ().get(MARKER) == marker
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def title(process: psutil.Process) -> str:
    """Returns a process' command line; "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
