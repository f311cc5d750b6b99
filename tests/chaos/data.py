"""Kills in every phase of `prepare`, and then a comparison of what came out with an undisturbed run.

    python tests/chaos/data.py [--count N] [--seed S] [--json]

A small Chinese and English corpus of many portions is prepared by `llmyard run` on its own private Ray. SIGKILL hits,
by exact process id, the driver, a worker in mid-task, or the node (its raylet), at least N // 5 times in each phase;
the phase is read from the receipts in the version's folder. The same command is then run again until it ends well, and
all that it made must be, byte by byte, what the undisturbed run made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from _commands import Command, alive, title
from _prepared import PHASES, STEPS, Harvest, Sight, harvest, look, write_job

ROLES = ("driver", "worker", "node")
WORKERS = max(2, os.cpu_count() or 2)  # as runtime/session.py reckons
PATIENCE = 400.0  # seconds after which a command counts as hanging
BUSY = "ray::Map("  # a worker in the middle of a task
GRACE = 90.0  # Ray's agents look for their dead GCS for a minute before they end
FAULTS = (
    "lost", "duplicated", "mismatched", "orphans", "left_files", "left_folders", "extra_versions", "redone", "unclear",
    "hanging",
)  # fmt: skip


@dataclass
class Hit:
    """One kill and what followed."""

    role: str
    phase: str
    sight: Sight
    at: float
    done: int
    busy: int
    command: Command
    recovery: float | None = None
    outcome: str = ""

    @property
    def rework(self) -> int:
        """Units that were begun and not done; an encoder leaves no trace of its beginning, a busy worker does."""
        return max(len(self.sight.half), min(self.busy, 1) if self.role == "worker" else self.busy)


@dataclass
class Campaign:
    """All kills, in rounds of a storage each.

    Attributes:
        home: Everything's place.
        random: Of phases, roles and moments.
    """

    home: Path
    random: random.Random
    hits: list[Hit] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)
    _seen: dict[int, float] = field(default_factory=dict)
    _receipts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._marker = self.home.name
        self._job = write_job(self.home)
        self._commands = 0

    def run(self, count: int) -> dict[str, Any]:
        """Makes at least `count` kills, as evenly as can be over the phases, and returns the figures."""
        try:
            began = time.monotonic()
            undisturbed = self._round([])
            seconds = time.monotonic() - began
            phases = self.random.sample(PHASES * (count // len(PHASES)), count // len(PHASES) * len(PHASES))
            phases += self.random.sample(PHASES, count % len(PHASES))
            for _ in range(2 * count):
                missing = Counter(phases) - Counter(hit.phase for hit in self.hits)
                if not missing:
                    break
                wanted = sorted(missing.elements(), key=PHASES.index)
                again = len(wanted) > 1 and self.random.random() < 0.4  # two owners of one version are killed
                self._compare(undisturbed, self._round(self.random.sample(wanted, 2 if again else 1)))
            return self._figures(seconds)
        finally:
            self._end_all()

    def _round(self, phases: list[str]) -> Harvest:
        storage = self.home / f"s{self._commands}"
        self._receipts = {}
        command = self._start(storage)
        for phase in sorted(phases, key=PHASES.index):
            self._strike(command, storage, phase)
            if command.process.poll() is not None:
                self._ended(command)
                command = self._start(storage)
        for _ in range(5):
            self._watch(command, storage, (9, 0))
            if self._ended(command) == 0:
                break
            command = self._start(storage)
        else:
            raise AssertionError(f"five commands did not end well: {self.messages[-5:]}")
        found = harvest(storage)
        shutil.rmtree(storage)
        return found

    def _start(self, storage: Path) -> Command:
        self._commands += 1
        log = self.home / f"log{self._commands}"
        return Command(self._job, storage, log, self._marker, self._seen)

    def _strike(self, command: Command, storage: Path, phase: str) -> None:
        step = self.random.randrange(STEPS[phase])
        roles = ("driver", "node") if phase == "commit" else ROLES
        times = Counter(hit.role for hit in self.hits)
        role = min(roles, key=lambda each: (times[each], self.random.random()))
        target = (PHASES.index(phase), step)
        if not self._watch(command, storage, target):
            return
        time.sleep({"clean": 0.3, "encode": 0.3, "tokenizer": 0.5}.get(phase, 0.0) * self.random.random())
        give_up = time.monotonic() + 5.0
        while (victim := command.victim(role, BUSY)) is None:
            if time.monotonic() > give_up or look(storage).moment[0] > target[0]:
                role, victim = "driver", command.victim("driver", BUSY)
                break
            command.refresh(0.05)
        assert victim is not None
        busy = len(command.running(BUSY))
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        at = time.monotonic()
        if role == "driver":
            command.process.wait()
        sight = look(storage)
        name = PHASES[min(max(sight.moment[0], 0), 4)]
        self.hits.append(Hit(role, name, sight, at, len(sight.receipts), busy, command))

    def _watch(self, command: Command, storage: Path, target: tuple[int, int]) -> bool:
        """Looks on until the job stands at `target` or the command ends; returns whether it stands there."""
        give_up = time.monotonic() + PATIENCE
        while command.process.poll() is None:
            sight = look(storage)
            self._note(command, sight)
            if sight.moment >= target:
                return True
            if time.monotonic() > give_up:
                self.totals["hanging"] += 1
                command.refresh(0.0)
                command.process.kill()
            command.refresh()
            time.sleep(0.002)
        command.process.wait()
        return False

    def _note(self, command: Command, sight: Sight) -> None:
        """Notes receipts that were written anew, and what has recovered."""
        for name, inode in sight.receipts.items():
            self.totals["redone"] += self._receipts.setdefault(name, inode) != inode
            self._receipts[name] = inode
        for hit in self.hits:
            if hit.command is not command and command.session is None and hit.recovery is None:
                hit.sight = sight  # what dying workers of the killed command still end is no recovery
            elif hit.recovery is None and sight.moment > hit.sight.moment and hit.sight.half <= set(self._receipts):
                hit.recovery = time.monotonic() - hit.at

    def _ended(self, command: Command) -> int:
        """Notes how a command ended; returns its exit code."""
        code, output = command.process.returncode, command.output()
        outcome = "went on" if code == 0 else f"exit {code}"
        if code > 0:
            told = output.partition("\nerror: ")[2].strip()
            self.messages.append(told)
            if code != 1 or "remedy: " not in told or "--debug" in told or "Traceback" in output:
                self.totals["unclear"] += 1
                print(f"exit {code} without a clear message: {output[-2000:]}", file=sys.stderr)
        for hit in self.hits:
            hit.outcome = hit.outcome or ("killed" if hit.role == "driver" else outcome)
            if code == 0 and hit.recovery is None:
                hit.recovery = time.monotonic() - hit.at
        if code != 0 and self.hits and self.hits[-1].command is command:
            self.hits[-1].recovery = None
        return code

    def _compare(self, whole: Harvest, found: Harvest) -> None:
        names = whole.files.keys() | found.files.keys()
        different = sorted(name for name in names if whole.files.get(name) != found.files.get(name))
        self.totals["mismatched"] += len(different) + (whole.metrics != found.metrics)
        self.totals["lost"] += (whole.documents - found.documents).total()
        self.totals["duplicated"] += (found.documents - whole.documents).total()
        self.totals["left_files"] += len(found.leftovers)
        self.totals["extra_versions"] += found.versions - whole.versions
        if different or found.leftovers:
            print(f"different: {different[:5]}; left: {found.leftovers[:5]}", file=sys.stderr)

    def _figures(self, seconds: float) -> dict[str, Any]:
        give_up = time.monotonic() + GRACE
        while (left := alive(self._marker, self._seen)) and time.monotonic() < give_up:
            time.sleep(1.0)
        for folder in {hit.command.session for hit in self.hits} - {None}:
            # What the next command sweeps is no leak; it knows a folder of ours by the owner's name in it.
            self.totals["left_folders"] += folder.exists() and not (folder / "llmyard-owner").exists()
            shutil.rmtree(folder, ignore_errors=True)
        recoveries = [hit.recovery for hit in self.hits if hit.recovery is not None] or [0.0]
        self.totals["orphans"] = len(left)
        return {
            "kills": len(self.hits),
            **{name: self.totals[name] for name in FAULTS},
            "recovery_seconds_p50": round(statistics.median(recoveries), 2),
            "recovery_seconds_max": round(max(recoveries), 2),
            "undisturbed_seconds": round(seconds, 2),
            "rework_units_max": max((hit.rework for hit in self.hits), default=0),
            "workers": WORKERS,
            "by_phase": {phase: sum(hit.phase == phase for hit in self.hits) for phase in PHASES},
            "by_role": {role: sum(hit.role == role for hit in self.hits) for role in ROLES},
            "outcomes": dict(Counter(f"{hit.role}: {hit.outcome}" for hit in self.hits)),
            "messages": sorted(set(self.messages)),
            "left_processes": [title(each)[:80] for each in left],
        }

    def _end_all(self) -> None:
        for process in alive(self._marker, self._seen):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def main(count: int = 10, seed: int = 7, as_json: bool = False) -> dict[str, Any]:
    """Makes the kills, prints a table, and returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="ycd", dir="/tmp"))
    campaign = Campaign(home, random.Random(seed))
    figures = campaign.run(count)
    shutil.rmtree(home)
    print(f"{'role':8}{'phase':11}{'units done':>11}{'half done':>11}{'recovery s':>12}  the command")
    for hit in campaign.hits:
        row = f"{hit.role:8}{hit.phase:11}{hit.done:11}{hit.rework:11}{hit.recovery or 0.0:12.2f}"
        print(f"{row}  {hit.outcome}")
    for key, value in figures.items():
        print(f"{key:24} {value}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="number of kills")
    parser.add_argument("--seed", type=int, default=7, help="of phases, roles and moments")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    found = main(given.count, given.seed, given.json)
    if any(found[key] for key in FAULTS) or found["rework_units_max"] > found["workers"]:
        sys.exit(1)
