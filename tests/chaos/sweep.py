"""Kills amid a sweep: every trial ends once, none is lost, and the settings tried are those of an undisturbed sweep.

    python tests/chaos/sweep.py [--count N] [--trials N] [--seconds S] [--seed S] [--roles R] [--json]

A sweep of programs that sleep, two at once. SIGKILL hits, by exact process id, a trial's process, the actor that keeps
the journal, the node (raylet), or the driver; where the command ends, it is given again. Each program appends its
number to a ledger when it ends, so that what ran twice to its end is seen from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from _commands import Command, alive

from llmyard.stages.config import Sweep, job_adapter
from llmyard.sweeps.space import drawn
from llmyard.sweeps.trial import Trial

ROLES = {"trial": "ray::ImplicitFunc", "referee": "ray::Journal", "node": "", "driver": ""}
PATIENCE = 240.0
PROGRAM = """
import json, sys, time
output, number, ledger, seconds = sys.argv[1:5]
time.sleep(float(seconds))
json.dump({"loss": float(number)}, open(output + "/metrics.json", "w"))
with open(ledger, "a") as file:
    file.write(number + "\\n")
"""


def job(home: Path, trials: int, seconds: float) -> dict[str, Any]:
    """Returns the sweep's job."""
    command = [sys.executable, "-c", PROGRAM, "{output}", "{x}", str(home / "ledger"), str(seconds)]
    return {
        "kind": "sweep", "output": "sleeps", "space": {"arguments.x": "uniform(0, 1)"}, "budget": {"trials": trials},
        "objective": {"metric": "loss"}, "concurrent": 2, "keep": trials,
        "job": {"kind": "command", "output": "sleep", "command": command, "arguments": {"x": 0.0}},
    }  # fmt: skip


class Campaign:
    """One sweep, killed again and again until it is done."""

    def __init__(self, home: Path, trials: int, seconds: float, seed: int) -> None:
        self.home, self.storage, self.trials, self.seconds = home, home / "storage", trials, seconds
        self.random = random.Random(seed)
        self.seen: dict[int, float] = {}
        self.hits: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.commands = 0
        self.job = home / "job.yaml"
        self.job.write_text(yaml.safe_dump(job(home, trials, seconds)), encoding="utf-8")

    def run(self, kills: int, roles: Sequence[str]) -> dict[str, Any]:
        """Kills so many times, the roles in turn, lets the sweep end, and returns the figures."""
        turns = [roles[number % len(roles)] for number in range(kills)]
        self.random.shuffle(turns)
        began = time.monotonic()
        command = self._command()
        try:
            for number, role in enumerate(turns):
                self._until(command, (number + 1) * self.trials // (kills + 2) + 1)
                if command.process.poll() is not None:
                    command = self._command()
                    self._until(command, self._done() + 1)
                command = self._strike(command, role)
            while self._ended(command) != 0:
                command = self._command()
            return self._figures(kills, time.monotonic() - began)
        finally:
            for process in alive(self.home.name, self.seen):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _command(self) -> Command:
        self.commands += 1
        return Command(self.job, self.storage, self.home / f"log{self.commands}", self.home.name, self.seen)

    def _done(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return len((self.home / "ledger").read_text().splitlines())
        return 0

    def _until(self, command: Command, done: int) -> None:
        give_up = time.monotonic() + PATIENCE
        while self._done() < done and command.process.poll() is None:
            if time.monotonic() > give_up:
                raise AssertionError(f"{done} trials were never done: {command.output()[-2000:]}")
            command.refresh()
            time.sleep(0.05)

    def _strike(self, command: Command, role: str) -> Command:
        time.sleep(self.random.random() * self.seconds)
        victim, give_up = None, time.monotonic() + PATIENCE
        while victim is None:  # of a command that was just given again Ray still starts
            command.refresh(0.0)
            beginning = ROLES[role]
            victim = next(iter(command.running(beginning)), None) if beginning else command.victim(role, "")
            if command.process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"there is no {role} to kill: {command.output()[-2000:]}")
        before, at = self._done(), time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        self.hits[role] += 1
        if role != "trial":
            self._ended(command)
            command = self._command()
        self._until(command, min(before + 1, self.trials))
        self.recoveries.append(time.monotonic() - at)
        return command

    def _ended(self, command: Command) -> int:
        give_up = time.monotonic() + PATIENCE + self.trials * self.seconds
        while command.process.poll() is None:
            if time.monotonic() > give_up:
                raise AssertionError(f"the command hangs: {command.output()[-2000:]}")
            command.refresh()
            time.sleep(0.1)
        return int(command.process.returncode)

    def _figures(self, kills: int, seconds: float) -> dict[str, Any]:
        (file,) = self.storage.glob("sweep/sleeps/2*/trials.jsonl")
        trials = [Trial.from_json(line) for line in file.read_text(encoding="utf-8").splitlines()]
        finished = [each for each in trials if each.state == "finished"]
        made = Counter(path.parent.parent.name for path in self.storage.glob("files/*/2*/artifact.json"))
        ledger = Counter((self.home / "ledger").read_text().split())
        config: Sweep = job_adapter().validate_python(job(self.home, self.trials, self.seconds))
        undisturbed = [drawn(config.space, config.seed, number) for number in range(self.trials)]
        with contextlib.closing(sqlite3.connect(self.storage / "mlflow.db")) as store:
            runs = Counter(store.execute("select name, status from runs where name like 'command-%'"))
        return {
            "kills": kills, "by_role": dict(self.hits), "commands": self.commands, "trials": len(finished),
            "lost": self.trials - len({each.number for each in finished}),
            "duplicated": sum(count - 1 for count in made.values()) + len(trials) - len({t.number for t in trials}),
            "mismatched": sum(dict(each.values) != undisturbed[each.number] for each in finished),
            "ended_twice": sum(count - 1 for count in ledger.values()),
            "open_runs": sum(count for (_, status), count in runs.items() if status != "FINISHED"),
            "missing_runs": self.trials - len(runs),
            "recovery_seconds_p50": round(statistics.median(self.recoveries), 1) if self.recoveries else None,
            "recovery_seconds_max": round(max(self.recoveries), 1) if self.recoveries else None,
            "seconds": round(seconds, 1),
        }  # fmt: skip


def main() -> int:
    """Returns 0 where nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="kills")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial sleeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--roles", default=",".join(ROLES))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ly-chaos-", dir="/tmp") as folder:
        figures = Campaign(Path(folder), given.trials, given.seconds, given.seed).run(
            given.count, given.roles.split(",")
        )
    print(json.dumps(figures) if given.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))
    return int(any(figures[key] for key in ("lost", "duplicated", "mismatched", "open_runs", "missing_runs")))


if __name__ == "__main__":
    sys.exit(main())
