"""What is noted of the lab that `up` keeps, for commands beside it and for who removes what it has left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import STARTING, UP, Lab, LabError, Node

COMMAND = "bash cluster/local lab"
STATE = Path(os.environ.get("LLMYARD_LAB_STATE", "/run/llmyard-lab.json"))
ENDING = "ending"  # of a lab, beside STARTING and UP


@dataclass
class Record:
    """What is noted of a lab: enough to use it, and to remove it when the process that keeps it is gone.

    Attributes:
        lab: With all nodes.
        phase: Of the lab.
        keeper: Id of the process of `up`, or of the one that removes what that has left.
        since: When the keeper was started: its id may have gone to another process.
    """

    lab: Lab
    phase: str
    keeper: int
    since: int

    @classmethod
    def mine(cls, lab: Lab, phase: str) -> Record:
        """Returns the record of a lab that this process keeps."""
        return cls(lab, phase, os.getpid(), started_at(os.getpid()) or 0)

    @classmethod
    def read(cls) -> Record | None:
        """Returns what is noted; None if nothing is.

        Raises:
            LabError: It cannot be read.
        """
        try:
            text = STATE.read_text(encoding="utf-8")
            found = json.loads(text)
            nodes = {
                str(name): Node(str(name), int(number), int(pid), str(phase))
                for name, number, pid, phase in found["nodes"]
            }
            if not re.fullmatch("ly[0-9a-f]{4}", found["prefix"]):  # a folder of this name will be removed
                raise ValueError(f"no lab has the prefix {found['prefix']!r}")
            if found["phase"] not in (STARTING, UP, ENDING):
                raise ValueError(f"no lab has the phase {found['phase']!r}")
            lab = Lab(int(found["count"]), int(found["cpus"]), found["prefix"], nodes)
            return cls(lab, found["phase"], int(found["keeper"]), int(found["since"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise LabError(
                f"{STATE} does not tell what lab there is: {type(error).__name__}: {error}",
                f"end its `up` by Ctrl-C; if there is none: rm -r {STATE}, and of what `ip netns list` and"
                " `ls -d /var/tmp/ly*-lab` show remove what is the lab's",
            ) from None

    def write(self) -> None:
        """Notes it, so that a reader sees the old or the new, and nothing between."""
        nodes = [(node.name, node.number, node.pid, node.phase) for node in self.lab.nodes.values()]
        noted = {"prefix": self.lab.prefix, "count": self.lab.count, "cpus": self.lab.cpus, "phase": self.phase,
                 "keeper": self.keeper, "since": self.since, "nodes": nodes}  # fmt: skip
        new = STATE.with_suffix(".new")
        new.write_text(json.dumps(noted), encoding="utf-8")
        new.replace(STATE)

    @staticmethod
    def forget() -> None:
        """Notes that there is none."""
        STATE.unlink(missing_ok=True)

    def is_kept(self) -> bool:
        """Whether the keeper lives."""
        return started_at(self.keeper) == self.since


def started_at(pid: int) -> int | None:
    """Returns when a process was started, in clock ticks since the machine was; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie keeps nothing


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Lets one process at a time read the record and write it anew."""
    with open(STATE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def noted() -> Record:
    """Returns the record of the lab.

    Raises:
        LabError: There is none, or it cannot be read.
    """
    record = Record.read()
    if record is None:
        raise LabError("no lab runs on this machine", f"{COMMAND} up", code=2)
    return record


def kept() -> Record:
    """Returns the record of a lab that can be worked with.

    Raises:
        LabError: There is none, or it is being removed.
    """
    record = noted()
    if record.phase == ENDING:
        raise LabError(f"the lab is being removed by process {record.keeper}", f"{COMMAND} down waits for it", code=2)
    return record


@contextlib.contextmanager
def changing() -> Iterator[Record]:
    """The record of the lab that there is, alone, and noted anew at the end."""
    with locked():
        record = kept()
        try:
            yield record
        finally:
            record.write()
