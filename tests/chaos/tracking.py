"""Kills around a tracked training run, and then a comparison of MLflow with the truth.

    python tests/chaos/tracking.py [--count N] [--seed S] [--json]

A driver process trains in a Ray worker that checkpoints and resumes; MLflow is a real server. SIGKILL hits, by exact
process id, the worker (also with its disk wiped: a lost node), the tracking actor, the server, and the driver, which is
then started again as a user would. At the end every (key, step) must be in MLflow once, with its value, in one
FINISHED run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from llmyard.core.errors import LlmyardError
from llmyard.core.tracking import RunSpec, spool_root
from llmyard.runtime.mlflow_gateway import MlflowGateway
from llmyard.runtime.tracking import StageRun, Ticket, Tracking

TOKEN = "checkpoint/chaos@1"
KEYS = ("loss", "learning_rate", "损失", "tokens_per_second")
ROLES = ("worker", "node", "actor", "server", "driver")
CHECKPOINT_EVERY = 20
PATIENCE = 120.0  # seconds after which a recovery counts as failed


def value_of(key: str, step: int) -> float:
    """The only right value of a metric."""
    return float(KEYS.index(key) * 1_000_000 + step)


# ---- the driver process


def train(ticket: Ticket, directory: str) -> int:
    """Steps until told to stop, resuming from the last checkpoint; returns the last step."""
    home = Path(directory)
    tracker = ticket.open(system_seconds=0)
    step, state = 0, b""
    if (home / "checkpoint").exists():
        number, _, state = (home / "checkpoint").read_bytes().partition(b"\n")
        step = int(number)
    tracker.resume(step, state)
    while not (home / "stop").exists():
        step += 1
        tracker.log(step, {key: value_of(key, step) for key in KEYS})
        time.sleep(0.01)
        if step % CHECKPOINT_EVERY == 0:
            (home / "checkpoint.new").write_bytes(b"%d\n" % step + tracker.checkpoint_state())
            (home / "checkpoint.new").replace(home / "checkpoint")
    tracker.close()
    return step


def drive(home: Path) -> None:
    """One `llmyard run`: trains in a worker, starting another when one dies, and ends the MLflow run."""
    import ray

    temporary = tempfile.mkdtemp(prefix="ycr", dir=home)
    context = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20, "log_to_driver": False}
    ray.init(address="local", _temp_dir=temporary, logging_level="ERROR", **context)
    task = ray.remote(num_cpus=1, max_retries=0)(train)
    with Tracking(str(home)) as tracking, StageRun(tracking, RunSpec(token=TOKEN, name="chaos")) as run:
        while True:
            try:
                last = ray.get(task.remote(run.ticket(), str(home)))
                break
            except ray.exceptions.WorkerCrashedError:
                continue
        run.result({"last_step": last}, artifact=TOKEN)
    ray.shutdown()
    (home / "done").write_text(str(last))


# ---- the harness


class Server:
    """The MLflow server under attack."""

    def __init__(self, home: Path) -> None:
        self._home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        store = [
            "--backend-store-uri",
            f"sqlite:///{self._home}/server.db",
            "--default-artifact-root",
            f"{self._home}/files",
        ]
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        with open(self._home / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *address, *store],
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that `kill` ends this group and nothing else
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise TimeoutError((self._home / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL for it and its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Attack:
    """One run under kills.

    Args:
        home: Everything's place.
        seed: Of the kills' order and times.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.server = Server(home)
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.recoveries: list[tuple[float, str]] = []
        self.failed = 0
        self._seen: dict[int, tuple[float, str]] = {}  # every process of every driver: pid → start time, title
        self._driver: subprocess.Popen[bytes] | None = None
        self._gateway = MlflowGateway(self.server.uri)

    def start_driver(self) -> None:
        """Starts the command that trains."""
        with open(self.home / "driver.log", "ab") as log:
            self._driver = subprocess.Popen(
                [sys.executable, __file__, "--drive", str(self.home)],
                stdout=log,
                stderr=log,
                env=os.environ | {"MLFLOW_TRACKING_URI": self.server.uri},
            )

    def last_timestamp(self) -> float:
        """Seconds since 1970 of the newest metric in MLflow; 0 while it cannot be asked."""
        with contextlib.suppress(LlmyardError):
            run_id = self._gateway.find_run(TOKEN, "llmyard")
            if run_id is not None:
                with self._gateway._connection.calls():
                    metrics = self._gateway._connection.client().get_run(run_id).data._metric_objs
                return max((each.timestamp / 1000 for each in metrics), default=0.0)
        return 0.0

    def strike(self, role: str) -> bool:
        """Kills one process; False if there is none at the moment."""
        if role == "server":
            self.server.kill()
            time.sleep(self.random.uniform(0.0, 3.0))
            self.server.start()
        elif role == "driver":
            assert self._driver is not None
            self._processes()
            self._driver.kill()
            self._driver.wait()
            self.start_driver()
        else:
            title = "ray::TrackingActor" if role == "actor" else "ray::train"
            found = [each for each in self._processes() if _title(each).startswith(title)]
            if not found:
                return False
            found[0].kill()
            if role == "node":  # its disk is gone too; only what is in the checkpoint can come back
                for spool in spool_root(str(self.home)).glob("*/worker"):
                    shutil.rmtree(spool, ignore_errors=True)
        self.kills[role] += 1
        return True

    def wait_for_news(self, since: float) -> bool:
        """Waits until MLflow has a metric that was logged after `since`."""
        give_up = time.time() + PATIENCE
        while time.time() < give_up:
            if self.last_timestamp() > since:
                return True
            time.sleep(0.2)
        return False

    def run(self, count: int) -> dict[str, Any]:
        """Makes `count` kills, lets the run end, and returns the comparison."""
        self.server.start()
        self.start_driver()
        try:
            if not self.wait_for_news(0.0):
                raise TimeoutError((self.home / "driver.log").read_text()[-3000:])
            roles = (ROLES * (count // len(ROLES) + 1))[:count]
            for role in self.random.sample(roles, count):
                time.sleep(self.random.uniform(0.0, 3.0))
                struck = time.time()
                while not self.strike(role) and time.time() - struck < PATIENCE:
                    time.sleep(0.2)
                    struck = time.time()
                if self.random.random() < 0.3:
                    continue  # the next kill comes before this one has healed
                if self.wait_for_news(time.time() if role == "server" else struck):
                    self.recoveries.append((time.time() - struck, role))
                else:
                    self.failed += 1
            self._processes()
            (self.home / "stop").touch()
            assert self._driver is not None
            self._driver.wait(timeout=PATIENCE)
            return self._compare()
        finally:
            if self._driver is not None and self._driver.poll() is None:
                self._driver.kill()
                self._driver.wait()
            self.server.kill()

    def _processes(self) -> list[psutil.Process]:
        assert self._driver is not None
        try:
            children = psutil.Process(self._driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen[child.pid] = (child.create_time(), _title(child)[:60].strip())
        return children

    def _compare(self) -> dict[str, Any]:
        last = int((self.home / "done").read_text())
        runs = [run for run in self._gateway.runs(1000) if run.token == TOKEN]
        lost = duplicated = mismatched = 0
        for key in KEYS:
            rows = [row for run in runs for row in self._gateway.metric_history(run.run_id, key)]
            times = Counter(step for step, _, _ in rows)
            lost += len(set(range(1, last + 1)) - set(times))
            duplicated += sum(count - 1 for count in times.values())
            mismatched += sum(value != value_of(key, step) for step, _, value in rows)
        left: list[str] = []
        for _ in range(60):  # Ray's agents outlive a killed driver by up to half a minute
            left = [title for pid, (start, title) in self._seen.items() if _is_alive(pid, start)]
            if not left:
                break
            time.sleep(1.0)
        unfinished = len(runs) - 1 + sum(run.status != "FINISHED" for run in runs)
        recoveries = [seconds for seconds, _ in self.recoveries] or [0.0]
        return {
            "kills": sum(self.kills.values()),
            "lost": lost,
            "duplicated": duplicated,
            "mismatched": mismatched,
            "orphans": len(left) + unfinished,
            "recovery_seconds_p50": round(statistics.median(recoveries), 2),
            "recovery_seconds_max": round(max(recoveries), 2),
            "recovery_failed": self.failed,
            "recovery_slowest_by_role": {role: round(seconds, 1) for seconds, role in sorted(self.recoveries)},
            "unsent_folders": len(list(spool_root(str(self.home)).glob("*"))),
            "left_processes": left,
            "run_states": [run.status for run in runs],
            "metrics": last * len(KEYS),
            "by_role": dict(self.kills),
        }


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _is_alive(pid: int, start: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - start) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main(count: int = 20, seed: int = 7, as_json: bool = False) -> dict[str, Any]:
    """Attacks one run `count` times, prints a table, and returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="yc", dir="/tmp"))  # short: Ray's socket paths begin with it
    try:
        figures = Attack(home, seed).run(count)
    except Exception:
        print((home / "driver.log").read_text()[-3000:], file=sys.stderr)
        raise
    else:
        shutil.rmtree(home, ignore_errors=True)
    for key, value in figures.items():
        print(f"{key:24} {value}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=7, help="of the kills' order and times")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(given.drive)
    else:
        figures = main(given.count, given.seed, given.json)
        if any(figures[key] for key in ("lost", "duplicated", "mismatched", "orphans", "recovery_failed")):
            sys.exit(1)
