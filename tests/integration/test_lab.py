"""The lab of cluster/lab.py as a user has it: up, used, hurt, ended from another terminal, and nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cluster"))

from lab import why_not

pytestmark = pytest.mark.integration

COMMAND = Path(__file__).parents[2] / "cluster" / "lab_command.py"
PATIENCE = 300.0


def heeds() -> None:
    """Heeds what ends a command: a shell's background jobs ignore Ctrl-C, what `nohup` starts a closed terminal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """Types commands of the lab; its lab is noted beside that of this machine, if there is one."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "lab.json"
        self._log = folder / "up.log"
        self._environment = os.environ | {"LLMYARD_LAB_STATE": str(self.state)}

    def up(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts `lab up`."""
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                self._command("up", *options), env=self._environment, stdout=log, stderr=log,
                preexec_fn=heeds,
            )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command."""
        return subprocess.Popen(self._command(*words), env=self._environment)

    def typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        done = subprocess.run(
            self._command(*words), env=self._environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert "Traceback" not in done.stdout + done.stderr, done
        return done

    def does(self, *words: str) -> str:
        """Runs a command that works; returns what it prints."""
        done = self.typed(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refuses(self, why: str, *words: str) -> None:
        """Runs a command that is refused."""
        done = self.typed(*words)
        assert done.returncode == 2, done
        assert done.stderr.startswith(f"error: {why}"), done
        assert "\n  remedy: " in done.stderr, done

    def said(self) -> str:
        """Returns what `up` has printed."""
        return self._log.read_text(encoding="utf-8")

    def states(self) -> dict[str, str]:
        """Returns how the nodes are."""
        return {node["name"]: node["state"] for node in self.status()["nodes"]}

    def status(self) -> dict[str, Any]:
        """Returns what `lab status` tells."""
        found: dict[str, Any] = json.loads(self.does("status", "--json"))
        return found

    def until(self, ready: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
        """Waits."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert process is None or process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def prefix(self) -> str:
        """Returns what the names of all that belongs to the lab begin with."""
        return str(json.loads(self.state.read_text(encoding="utf-8"))["prefix"])

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, str(COMMAND), *words]


def left(prefix: str) -> list[str]:
    """Returns what there is of a lab."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"/{prefix}-lab/" in process.environ().get("RAY_AUTH_TOKEN_PATH", ""):
                processes.append(str(process))
    files = [*Path("/run/netns").glob(f"{prefix}-*"), *Path("/var/tmp").glob(f"{prefix}-*")]
    return [*map(str, files), *processes]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if missing := why_not():
        pytest.skip(missing)
    found = Terminal(tmp_path)
    try:
        yield found
    finally:
        found.typed("down")  # refused where the test has ended it


def test_a_lab_is_used_hurt_and_ended(terminal: Terminal) -> None:
    up = terminal.up("--nodes", "1", "--cpus", "1")
    terminal.until(terminal.state.exists, up)
    prefix = terminal.prefix()
    terminal.refuses("a lab is starting on this machine already", "up")
    terminal.refuses("the lab is still starting", "add")
    terminal.until(lambda: terminal.status()["phase"] == "up", up)
    assert terminal.states() == {"node0": "alive"}
    assert "node0 198.18.0.1 is up (1 of 1)" in terminal.said()
    terminal.refuses(f"a lab runs on this machine already: process {up.pid}", "up")

    adding = [terminal.start("add") for _ in range(2)]
    assert [process.wait(PATIENCE) for process in adding] == [0, 0]
    assert terminal.states() == {"node0": "alive", "node1": "alive", "node2": "alive"}

    shared = terminal.status()["shared"]
    terminal.does("exec", "node1", "bash", "-c", f"echo seen >{shared}/file && echo own >/tmp/file")
    assert terminal.does("exec", "client", "cat", f"{shared}/file") == "seen\n"
    assert terminal.typed("exec", "client", "cat", "/tmp/file").returncode == 1
    assert terminal.typed("exec", "client", "bash", "-c", "kill -9 $$").returncode == -9
    count = "import ray; ray.init('198.18.0.1:6379', log_to_driver=False); print(ray.cluster_resources()['CPU'])"
    counted = terminal.typed("exec", "node0", sys.executable, "-c", count)
    assert counted.stdout.splitlines()[-1] == "3.0", counted

    began = time.monotonic()
    terminal.does("cut", "node1")
    terminal.does("mend", "node1")
    if time.monotonic() - began < 4:  # else Ray may have given it up
        assert terminal.states()["node1"] == "alive"
    terminal.refuses("node1 is not cut off", "mend", "node1")
    terminal.does("cut", "node1")
    terminal.refuses("node1 is cut off already", "cut", "node1")
    assert terminal.states()["node1"].startswith("cut off")

    terminal.does("kill", "node1")
    terminal.does("drain", "node2")
    terminal.until(lambda: terminal.states() == {"node0": "alive", "node1": "killed", "node2": "drained"})
    for action in ("kill", "drain", "cut", "mend"):
        terminal.refuses("node1 does not run: killed", action, "node1")
    terminal.refuses("there is no node 'node7'", "kill", "node7")

    assert terminal.does("down").splitlines()[-1] == "nothing is left of the lab"
    assert up.wait(PATIENCE) == 0
    assert "Traceback" not in terminal.said()
    assert left(prefix) == []
    terminal.refuses("no lab runs on this machine", "down")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_lab_that_is_interrupted_while_it_starts_leaves_nothing(terminal: Terminal, number: signal.Signals) -> None:
    up = terminal.up("--nodes", "1")
    terminal.until(lambda: terminal.state.exists() and len(terminal.status()["nodes"]) == 1, up)
    prefix = terminal.prefix()
    assert len(left(prefix)) > 4
    for _ in range(3):  # whoever is impatient must not leave half of it
        up.send_signal(number)
        time.sleep(0.2)
    assert up.wait(PATIENCE) == 130
    assert "Traceback" not in terminal.said()
    assert left(prefix) == []
    assert not terminal.state.exists()


def test_what_an_up_that_was_killed_has_left_is_removed(terminal: Terminal) -> None:
    up = terminal.up("--nodes", "1")
    terminal.until(lambda: terminal.state.exists() and len(terminal.status()["nodes"]) == 1, up)
    up.kill()
    up.wait()
    first = terminal.prefix()
    assert len(left(first)) > 4
    assert terminal.status()["phase"] == "abandoned"
    again = terminal.up("--nodes", "1")
    terminal.until(lambda: terminal.prefix() != first, again)
    assert left(first) == []
    second = terminal.prefix()
    again.kill()
    again.wait()
    terminal.does("down")
    assert left(second) == []
    assert not terminal.state.exists()
