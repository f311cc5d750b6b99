"""A worker that hangs writes down where, and ends; one that is well is left alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from llmyard.training.watchdog import HUNG, Watchdog

HANGS = """
import sys, threading, time
from llmyard.training.watchdog import Watchdog

def waits_for_ever():
    lock = threading.Lock(); lock.acquire(); lock.acquire()

dog = Watchdog(1.0, open(sys.argv[1], "a"))
for _ in range(4):
    time.sleep(0.5)
    dog.beat()
print("alive", flush=True)
waits_for_ever()
"""


def test_a_hanging_process_ends_with_its_stacks_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rank.log"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGS, str(file)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "alive\n", done.stderr  # two seconds of beats were longer than the time without one
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    stacks = file.read_text(encoding="utf-8")
    assert HUNG in stacks
    assert "waits_for_ever" in stacks


def test_a_closed_one_ends_nothing(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        with Watchdog(0.2, file) as dog:
            dog.beat()
        Watchdog(None, file).beat()
        Watchdog(0.2, file)  # not begun
        time.sleep(0.5)
    assert (tmp_path / "log").read_text(encoding="utf-8") == ""
