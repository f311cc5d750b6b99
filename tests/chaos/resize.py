"""A training that grows and shrinks with its cluster, and is compared with one that did not.

    python tests/chaos/resize.py [--steps N] [--json]

An elastic job, of one or two workers, begins on a cluster of one node. A second node joins; then one of the two is
killed. Every step must be in MLflow exactly once, and every loss must be that of a training by one worker but for the
rounding of sums in another order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from _cluster import LocalCluster
from _commands import Command, alive
from _training import PREPARE, PRETRAIN, Outcome, Trace, copy_prepared

PATIENCE = 300.0
TOLERANCE = 1e-5  # of a loss: float32 sums in another order
ELASTIC = {"workers": {"min": 1, "max": 2}, "max_failures": 100}


def write_job(home: Path, name: str, steps: int, resources: dict[str, Any]) -> Path:
    """Writes a job and returns its path."""
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(PRETRAIN | {"steps": steps, "resources": resources}), encoding="utf-8")
    return path


class Watched:
    """A running command and its trace."""

    def __init__(self, command: Command, storage: Path) -> None:
        self.command, self.trace, self._storage = command, Trace(storage), storage

    def until(self, is_there: Any) -> None:
        """Waits until something holds."""
        give_up = time.monotonic() + PATIENCE
        while not is_there():
            self.command.refresh()
            ended = self.command.process.poll() is not None
            if ended or time.monotonic() > give_up:
                raise AssertionError(self.command.output()[-3000:])
            time.sleep(0.02)

    def world(self) -> int:
        """Returns how many workers the newest group has."""
        logs = sorted(self._storage.glob("checkpoint/base/*/_making/logs/rank-0000.log"))
        found = re.findall(r"rank 0 of (\d+)", logs[-1].read_text(encoding="utf-8")) if logs else []
        return int(found[-1]) if found else 0

    def seconds_to_a_step_of(self, workers: int) -> float:
        """Returns how long it takes until a group of so many workers has made a step."""
        began = time.time()
        self.until(lambda: self.world() == workers)
        at = time.time() * 1000
        self.until(lambda: self.trace.look() and self.trace.steps[-1][0] > at)
        first = next(when for when, _ in self.trace.steps if when > at)
        return first / 1000 - began


def main(steps: int = 1500, as_json: bool = False) -> dict[str, Any]:
    """Runs both trainings, prints the figures and returns them."""
    home = Path(tempfile.mkdtemp(prefix="yct", dir="/tmp"))
    seen: dict[int, float] = {}
    prepare = home / "prepare.yaml"
    prepare.write_text(yaml.safe_dump(PREPARE), encoding="utf-8")
    done = Command(prepare, home / "made", home / "log0", home.name, seen)
    assert done.process.wait(timeout=PATIENCE) == 0, done.output()
    for name in ("one", "elastic"):
        copy_prepared(home / "made", home / name)
    alone = write_job(home, "alone", steps, {"workers": 1})
    done = Command(alone, home / "one", home / "log1", home.name, seen)
    assert done.process.wait(timeout=PATIENCE) == 0, done.output()

    cluster = LocalCluster(home.name, nodes=1)
    try:
        job = write_job(home, "elastic", steps, ELASTIC)
        command = Command(job, home / "elastic", home / "log2", home.name, seen, "--address", cluster.address)
        watched = Watched(command, home / "elastic")
        watched.until(lambda: watched.trace.look() >= 20)
        assert watched.world() == 1
        cluster.join()
        up = watched.seconds_to_a_step_of(2)
        together = watched.trace.look() + 40
        watched.until(lambda: watched.trace.look() >= together)
        cluster.leave()
        down = watched.seconds_to_a_step_of(1)
        assert command.process.wait(timeout=PATIENCE) == 0, command.output()
    finally:
        for process in alive(home.name, seen):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.stop()
    one, elastic = Outcome.of(home / "one"), Outcome.of(home / "elastic")
    shutil.rmtree(home)
    both = one.losses.keys() & elastic.losses.keys()
    furthest = max(abs(elastic.losses[step][0] - one.losses[step][0]) for step in both)
    figures = {
        "lost": sum(step not in elastic.losses for step in one.losses),
        "duplicated": sum(len(values) > 1 for values in elastic.losses.values()),
        "largest_difference_of_a_loss": furthest,
        "seconds_to_a_step_of_two": round(up, 2),
        "seconds_to_a_step_of_one": round(down, 2),
    }
    for key, value in figures.items():
        print(f"{key:32} {value}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of each run")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    found = main(given.steps, given.json)
    if found["lost"] or found["duplicated"] or found["largest_difference_of_a_loss"] > TOLERANCE:
        sys.exit(1)
