"""Nodes of a three-node cluster killed and cut off under a training, and an endpoint updated and drained under load.

    python tests/chaos/cluster.py [--count N] [--seed S] [--steps N] [--minutes M] [--parts train,serve,load] [--json]

The lab of cluster/lab.py gives each node a network of its own. *train*: `llmyard submit` pretrains on two of the nodes;
one of them loses its power (all processes killed, no packet says so) or its link, a new node joins, and every loss and
the final weights must equal those of an undisturbed run. *serve*: an endpoint of two replicas is updated to another
version, and a node with a replica is drained, while clients ask: no request may fail. *load*: everything computes for
minutes; no node may be taken for dead. Needs root on Linux.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _lab import Asking, lab, make_bases, works, write_deploy_job
from _training import EVERY, Outcome, Trace, copy_prepared, write_jobs

PARTS = ("train", "serve", "load")
ROLES = ("cut", "kill")
PATIENCE = 300.0
FAULTS = (
    "lost", "duplicated", "mismatched", "mismatched_weights", "lost_checkpoints", "left_files", "open_runs",
    "false_deaths", "unanswered", "lost_requests", "orphans",
)  # fmt: skip
BURN = "while True: pass"


@dataclass
class Hit:
    """A node that was lost.

    Attributes:
        noticed: Seconds until Ray took it for dead.
        recovery: Seconds until the first new step.
    """

    role: str
    node: str
    step: int
    marked: int
    at: float
    noticed: float = 0.0
    recovery: float = 0.0
    resumed: int = 0


@dataclass
class Campaign:
    """All that is done to one lab."""

    lab: lab.Lab
    random: random.Random
    steps: int
    hits: list[Hit] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)

    def train(self, count: int) -> None:
        """Loses `count` nodes under trainings, by turns by power and by link."""
        home = self.lab.folder / "train"
        home.mkdir()
        prepare, job = write_jobs(home, self.steps)
        made = home / "made"
        self._wait(self._submitted(prepare, made), home)
        whole = self._round(home, job, made, "whole", None)
        for number in range(count):
            role = ROLES[number % len(ROLES)]
            found = self._round(home, job, made, f"round{number}", role)
            self.totals += found.faults(whole)
            if found.leftovers:
                print(f"left by {self.hits[-1]}: {found.leftovers}", file=sys.stderr)

    def _submitted(self, job: Path, storage: Path) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("llmyard")), "submit", str(job), "--address", self.lab.url,
                   "--storage", str(storage), "--shared-paths", "--code", "image"]  # fmt: skip
        with open(job.parent / "log", "ab") as log:
            process: subprocess.Popen[bytes] = self.lab.run(self.lab.client, command, stdout=log, stderr=log)
        return process

    def _wait(self, process: subprocess.Popen[bytes], home: Path) -> None:
        code = process.wait(PATIENCE)
        if code != 0:
            raise AssertionError(f"exit {code}: {_tail(home / 'log')}")

    def _round(self, home: Path, job: Path, made: Path, name: str, role: str | None) -> Outcome:
        storage = home / name
        copy_prepared(made, storage)
        trace = Trace(storage)
        process = self._submitted(job, storage)
        if role is not None:
            hit = self._strike(process, trace, role, home)
            self._recovered(hit, process, trace, home)
        self._wait(process, home)
        if role is not None:
            self._replaced(self.lab.nodes[hit.node])
        found = Outcome.of(storage)
        shutil.rmtree(storage)
        return found

    def _strike(self, process: subprocess.Popen[bytes], trace: Trace, role: str, home: Path) -> Hit:
        target, give_up = self.random.randrange(EVERY, self.steps // 2), time.monotonic() + PATIENCE
        while (step := trace.look()) < target:
            assert process.poll() is None, _tail(home / "log")
            assert time.monotonic() < give_up, _tail(home / "log")
            time.sleep(0.01)
        node = self.random.choice([each for each in self._living() if works(self.lab, each, "RayTrainWorker")])
        hit = Hit(role, node.name, step, trace.marked(), time.time())
        (self.lab.kill if role == "kill" else self.lab.cut)(node)
        self.hits.append(hit)
        return hit

    def _living(self) -> list[lab.Node]:
        alive = self.lab.alive() or ()
        return [node for node in self.lab.nodes.values() if node is not self.lab.head and node.address in alive]

    def _recovered(self, hit: Hit, process: subprocess.Popen[bytes], trace: Trace, home: Path) -> None:
        address, give_up = self.lab.nodes[hit.node].address, time.monotonic() + PATIENCE
        while (first := trace.first_after(hit.at * 1000)) is None or not hit.noticed:
            if not hit.noticed and (alive := self.lab.alive()) and address not in alive:
                hit.noticed = time.time() - hit.at
            trace.look()
            assert process.poll() is None or trace.first_after(hit.at * 1000), _tail(home / "log")
            assert time.monotonic() < give_up, f"no step after {hit}: {_tail(home / 'log')}"
            time.sleep(0.05)
        hit.recovery, hit.resumed = first[0] / 1000 - hit.at, first[1]
        self.totals["lost_checkpoints"] += hit.resumed <= hit.marked

    def _replaced(self, node: lab.Node) -> None:
        """Adds a node for a lost one; who comes back from behind a cut link must find that it is no part any more."""
        self.lab.mend(node)
        self.lab.add()
        give_up = time.monotonic() + PATIENCE
        while (left := self.lab.pids(node)) and time.monotonic() < give_up:
            time.sleep(0.5)
        self.totals["orphans"] += len(left)

    def serve(self) -> None:
        """Updates an endpoint and drains a node under load."""
        storage = self.lab.folder / "serve"
        key, first, second = make_bases(storage)
        job = self.lab.folder / "deploy.yaml"
        write_deploy_job(job, first)
        self._wait(self._submitted(job, storage), job.parent)
        asking = Asking(self.lab, key)
        try:
            write_deploy_job(job, second)
            self._wait(self._submitted(job, storage), job.parent)
            assert asking.answered_by() == second
            node = self.random.choice([each for each in self._living() if works(self.lab, each, "ServeReplica")])
            self.lab.drain(node)
            began = time.monotonic()
            while node.address in (self.lab.alive() or (node.address,)) or self.lab.pids(node):
                assert time.monotonic() < began + PATIENCE, f"{node.name} does not end"
                time.sleep(0.2)
            self.figures["drain_seconds"] = round(time.monotonic() - began, 1)
            time.sleep(5.0)
        finally:
            seen = asking.ended()
        self.lab.add()
        statuses = seen["statuses"]
        self.figures |= {"requests": sum(statuses.values()), **seen}
        self.totals["lost_requests"] += sum(count for status, count in statuses.items() if status != "200")

    def load(self, minutes: float) -> None:
        """Has all nodes compute, and counts those that are taken for dead."""
        burning = [self.lab.run(node, [sys.executable, "-c", BURN]) for node in self._living()]
        expected, deadline = set(self.lab.alive() or ()), time.monotonic() + 60 * minutes
        looks = 0
        try:
            while time.monotonic() < deadline:
                if (alive := self.lab.alive()) is not None:
                    self.totals["false_deaths"] = max(self.totals["false_deaths"], len(expected - set(alive)))
                    looks += 1
                time.sleep(0.5)
        finally:
            for process in burning:
                process.kill()
                process.wait()
        self.figures |= {"loaded_minutes": minutes, "looks": looks}
        self.totals["unanswered"] = int(looks < 10 * minutes)  # else nobody saw whether nodes lived


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]


def main(
    count: int = 4, seed: int = 7, steps: int = 400, minutes: float = 10.0, parts: Sequence[str] = PARTS,
    as_json: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Does the parts, prints a table, and returns the figures."""
    with lab.Lab() as made:
        campaign = Campaign(made, random.Random(seed), steps)
        if "train" in parts:
            campaign.train(count)
        if "serve" in parts:
            campaign.serve()
        if "load" in parts:
            campaign.load(minutes)
    hits = campaign.hits
    recovery, noticed = [hit.recovery for hit in hits] or [0.0], [hit.noticed for hit in hits] or [0.0]
    figures = {
        "kills": len(hits),
        **{name: campaign.totals[name] for name in FAULTS},
        "noticed_seconds_p50": round(statistics.median(noticed), 2),
        "noticed_seconds_max": round(max(noticed), 2),
        "recovery_seconds_p50": round(statistics.median(recovery), 2),
        "recovery_seconds_max": round(max(recovery), 2),
        **campaign.figures,
    }
    print(f"{'lost by':10}{'node':8}{'step':>6}{'marked':>8}{'first step':>12}{'noticed s':>11}{'recovery s':>12}")
    for hit in hits:
        row = f"{hit.role:10}{hit.node:8}{hit.step:6}{hit.marked:8}{hit.resumed:12}{hit.noticed:11.2f}"
        print(f"{row}{hit.recovery:12.2f}")
    for key, value in figures.items():
        print(f"{key:24} {value}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="nodes lost under trainings")
    parser.add_argument("--seed", type=int, default=7, help="of nodes and moments")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--parts", default=",".join(PARTS), help="which are done")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    found = main(given.count, given.seed, given.steps, given.minutes, given.parts.split(","), given.json)
    sys.exit(any(found[key] for key in FAULTS))
