"""Which process owns something, in a form that outlives the process and can be checked later."""

from __future__ import annotations

import os
import socket
from functools import cache


@cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()[:8]
    except OSError:
        return "boot"


def _start_ticks(pid: int) -> str:
    """The kernel's start time of a process ("" if it is gone); tells a reused pid from the first process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def this_process() -> str:
    """Returns ``host:boot:pid:start``, which no other process ever has."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{_boot_id()}:{pid}:{_start_ticks(pid)}"


def is_alive(owner: str) -> bool | None:
    """Returns whether the process still runs; None when it is on another machine and cannot be asked."""
    try:
        host, boot, pid, start = owner.rsplit(":", 3)
    except ValueError:
        return None
    if host != socket.gethostname():
        return None
    if boot != _boot_id():
        return False
    return _start_ticks(int(pid)) == start
