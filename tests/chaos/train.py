"""Kills in mid-training and in mid-save, and then a comparison, bit by bit, with an undisturbed run.

    python tests/chaos/train.py [--count N] [--seed S] [--steps N] [--roles worker,node] [--json]

Two workers pretrain a small model with dropout, accumulated gradients and checkpoints written in the background.
SIGKILL hits, by exact process id, a worker, Ray Train's controller, the driver (the command is then given again), or a
node of a small cluster (its raylet; another node joins later). Every loss that MLflow has and the final weights must
equal those of the undisturbed run; a control, in which dropout is seeded by the process, must fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from _cluster import LocalCluster
from _commands import Command, alive, title
from _training import EVERY, Outcome, Trace, copy_prepared, settings, write_jobs

ROLES = ("worker", "controller", "driver", "node")
TITLES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}
KILLS_A_ROUND = 4
PATIENCE = 300.0  # seconds after which a command counts as hanging
GRACE = 90.0  # Ray's agents look for their dead GCS for a minute before they end
FAULTS = (
    "lost", "duplicated", "mismatched", "mismatched_weights", "lost_checkpoints", "left_files", "open_runs", "orphans",
    "unclear", "hanging",
)  # fmt: skip


@dataclass
class Hit:
    """One kill and what followed.

    Attributes:
        marked: Step of the newest checkpoint with a mark at that moment.
        noticed: Seconds until Ray knew that a node was dead.
        recovery: Seconds until the first new step.
        resumed: That step.
    """

    role: str
    step: int
    in_save: bool
    marked: int
    at: float
    noticed: float | None = None
    recovery: float | None = None
    resumed: int = 0


@dataclass
class Campaign:
    """All kills, in rounds of a storage each."""

    home: Path
    random: random.Random
    steps: int
    hits: list[Hit] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    _seen: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._marker = self.home.name
        self._prepare, self._job = write_jobs(self.home, self.steps)
        self._made = self.home / "made"
        self._commands = 0

    def run(self, count: int, roles: Sequence[str]) -> dict[str, Any]:
        """Makes `count` kills, of the roles in turn, and returns the figures."""
        try:
            self._prepared()
            began = time.monotonic()
            whole = self._round([], "whole")
            seconds = time.monotonic() - began
            turns = [roles[number % len(roles)] for number in range(count)]
            on_nodes = [role for role in turns if role == "node"]
            others = self.random.sample([role for role in turns if role != "node"], len(turns) - len(on_nodes))
            for number, planned in enumerate([*_groups(others), *_groups(on_nodes)]):
                found = self._round(planned, f"round{number}")
                self.totals += found.faults(whole)
            control = self._round(["worker"], "control", spoiled=True).faults(whole)
            del self.hits[-1]  # it counts for nothing but the control
            return self._figures(seconds, control)
        finally:
            for process in alive(self._marker, self._seen):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _prepared(self) -> None:
        command = self._command(self._prepare, self._made)
        assert command.process.wait(timeout=PATIENCE) == 0, command.output()

    def _command(self, job: Path, storage: Path, *more: str, spoiled: bool = False) -> Command:
        self._commands += 1
        log = self.home / f"log{self._commands}"
        return Command(job, storage, log, self._marker, self._seen, *more, **settings(self.home, spoiled))

    def _round(self, roles: list[str], name: str, spoiled: bool = False) -> Outcome:
        storage = self.home / name
        copy_prepared(self._made, storage)
        cluster = LocalCluster(self._marker) if "node" in roles else None
        more = ("--address", cluster.address) if cluster is not None else ()
        trace = Trace(storage)
        try:
            command = self._command(self._job, storage, *more, spoiled=spoiled)
            for number, role in enumerate(roles):
                span = self.steps // (len(roles) + 1)
                self._strike(command, cluster, trace, role, span * number + self.random.randrange(EVERY, span))
                if role == "driver":
                    command = self._command(self._job, storage, *more, spoiled=spoiled)
                self._recovered(command, trace, cluster)
            while not self._ended(command):
                command = self._command(self._job, storage, *more, spoiled=spoiled)
        finally:
            if cluster is not None:
                cluster.stop()
        found = Outcome.of(storage)
        shutil.rmtree(storage)
        return found

    def _strike(self, command: Command, cluster: LocalCluster | None, trace: Trace, role: str, target: int) -> None:
        in_save = self.random.random() < 0.4
        give_up = time.monotonic() + PATIENCE
        while (step := trace.look()) < target or (in_save and not trace.saving()):
            if command.process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"no step {target}: {command.output()[-3000:]}")
            command.refresh()
            time.sleep(0.002)
        command.refresh(0.0)
        pid = cluster.pick(self.random) if role == "node" and cluster else self._victim(command, role)
        marked, at = trace.marked(), time.time()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
        if role == "driver":
            command.process.wait()
        self.hits.append(Hit(role, step, in_save, marked, at))

    def _victim(self, command: Command, role: str) -> int:
        if role == "driver":
            return command.process.pid
        there = command.running(TITLES[role])
        assert there, [title(each)[:60] for each in command.family]
        return self.random.choice(there).pid

    def _recovered(self, command: Command, trace: Trace, cluster: LocalCluster | None) -> None:
        """Waits for the first new step after the last kill."""
        hit, give_up = self.hits[-1], time.monotonic() + PATIENCE
        while (first := trace.first_after(hit.at * 1000)) is None:
            trace.look()
            command.refresh()
            if hit.role == "node" and cluster is not None and hit.noticed is None and cluster.lost():
                hit.noticed = time.time() - hit.at
            if time.monotonic() > give_up or command.process.poll() not in (None, 0):
                self.totals["hanging"] += command.process.poll() is None
                print(command.output()[-3000:], file=sys.stderr)
                raise AssertionError(f"no step after {hit}")
            time.sleep(0.01)
        hit.recovery, hit.resumed = first[0] / 1000 - hit.at, first[1]
        self.totals["lost_checkpoints"] += first[1] <= hit.marked
        if hit.role == "node" and cluster is not None:
            cluster.replace()

    def _ended(self, command: Command) -> bool:
        """Waits for a command's end; returns whether it ended well."""
        give_up = time.monotonic() + PATIENCE
        while command.process.poll() is None:
            command.refresh()
            if time.monotonic() > give_up:
                self.totals["hanging"] += 1
                command.process.kill()
            time.sleep(0.05)
        code, output = command.process.returncode, command.output()
        if code != 0 and ("remedy: " not in output or "Traceback" in output):
            self.totals["unclear"] += 1
            print(f"exit {code} without a clear message: {output[-2000:]}", file=sys.stderr)
        return code == 0

    def _figures(self, seconds: float, control: Counter[str]) -> dict[str, Any]:
        give_up = time.monotonic() + GRACE
        while (left := alive(self._marker, self._seen)) and time.monotonic() < give_up:
            time.sleep(1.0)
        self.totals["orphans"] = len(left)
        of = {role: [hit.recovery or 0.0 for hit in self.hits if hit.role == role] for role in ROLES}
        every = [seconds for each in of.values() for seconds in each]
        lost = statistics.mean(of.get("worker") or [0.0])
        return {
            "kills": len(self.hits),
            **{name: self.totals[name] for name in FAULTS},
            "in_save": sum(hit.in_save for hit in self.hits),
            "recovery_seconds_p50": round(statistics.median(every or [0.0]), 2),
            "recovery_seconds_max": round(max(every, default=0.0), 2),
            **{
                f"{role}_seconds": [round(statistics.median(each), 2), round(max(each), 2)]
                for role, each in of.items() if each
            },
            "node_noticed_seconds": [round(hit.noticed, 2) for hit in self.hits if hit.noticed is not None],
            "goodput_at_a_kill_in_5_minutes": round(1 - lost / 300, 4),
            "undisturbed_seconds": round(seconds, 2),
            "control_mismatched": control["mismatched"],
            "left_processes": [title(each)[:80] for each in left],
        }  # fmt: skip


def _groups(roles: list[str]) -> list[list[str]]:
    return [roles[at : at + KILLS_A_ROUND] for at in range(0, len(roles), KILLS_A_ROUND)]


def main(
    count: int = 8, seed: int = 7, steps: int = 400, roles: Sequence[str] = ROLES, as_json: bool = False
) -> dict[str, Any]:
    """Makes the kills, prints a table, and returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="yct", dir="/tmp"))
    campaign = Campaign(home, random.Random(seed), steps)
    figures = campaign.run(count, roles)
    shutil.rmtree(home)
    print(f"{'role':12}{'step':>6}{'in save':>9}{'marked':>8}{'first step':>12}{'recovery s':>12}")
    for hit in campaign.hits:
        row = f"{hit.role:12}{hit.step:6}{hit.in_save!s:>9}{hit.marked:8}{hit.resumed:12}{hit.recovery or 0.0:12.2f}"
        print(row)
    for key, value in figures.items():
        print(f"{key:32} {value}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="number of kills")
    parser.add_argument("--seed", type=int, default=7, help="of roles and moments")
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--roles", default=",".join(ROLES), help="which are killed, in turn")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    found = main(given.count, given.seed, given.steps, given.roles.split(","), given.json)
    if any(found[key] for key in FAULTS) or not found["control_mismatched"]:
        sys.exit(1)
