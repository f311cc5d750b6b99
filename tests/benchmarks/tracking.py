"""What experiment tracking costs a training loop, and whether a dead MLflow loses anything.

    python tests/benchmarks/tracking.py [--json]

(a) how long `log` blocks while a sender writes to a real SQLite store, (b) metrics lost over a kill and restart of a
real MLflow server, (c) the share of step time that tracking takes: paired runs with and without it, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmyard.core.tracking import NullTracker, RunSpec, Tracker
from llmyard.runtime.mlflow_gateway import MlflowGateway
from llmyard.runtime.tracking import StageRun, Tracking

METRICS = 8
CALLS = 20_000
SERVER_STEPS = 600
PAIRS = 16
STEPS_PER_HALF = 80  # of 50 ms: 4 s, two sends


class MlflowServer:
    """A real `mlflow server` on 127.0.0.1 that can be killed and started again with its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{self._directory}/server.db"]
        options += ["--default-artifact-root", f"{self._directory}/artifacts"]
        with open(self._directory / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own, so that `kill` ends exactly what was started here
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise TimeoutError((self._directory / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL for the server and its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def tracked_run(storage: Path, token: str) -> Iterator[tuple[Tracking, StageRun]]:
    """A tracking actor and an open run."""
    with Tracking(str(storage)) as tracking, StageRun(tracking, RunSpec(token=token, name=token)) as run:
        yield tracking, run


def measure_blocking(storage: Path) -> dict[str, float]:
    """p99 and worst milliseconds of a `log` call while the actor writes to SQLite."""
    with tracked_run(storage, "bench/blocking") as (_, run):
        run.run_id(timeout=120)
        tracker = run.ticket().open(system_seconds=1.0)
        tracker.resume(0)
        taken = np.empty(CALLS)
        metrics = {f"metric_{index}": 0.5 for index in range(METRICS)}
        for step in range(CALLS):
            begin = time.perf_counter()
            tracker.log(step, metrics)
            taken[step] = time.perf_counter() - begin
            if step % 20 == 0:
                time.sleep(0.01)  # some 10 s in all, so that sends really overlap
        tracker.checkpoint_state()
        tracker._drain_seconds = 300.0
        tracker.close()
    milliseconds = taken * 1000
    return {
        "report_block_ms": float(np.percentile(milliseconds, 99)),
        "report_block_ms_p999": float(np.percentile(milliseconds, 99.9)),
        "report_block_ms_max": float(milliseconds.max()),
    }


def measure_loss(directory: Path) -> dict[str, float]:
    """Metrics missing and doubled after the server was killed and restarted in the middle."""
    server = MlflowServer(directory)
    server.start()
    try:
        os.environ["MLFLOW_TRACKING_URI"] = server.uri
        with tracked_run(directory, "bench/loss") as (_, run):
            run_id = run.run_id(timeout=120)
            tracker = run.ticket().open(system_seconds=0)
            tracker.resume(0)
            worst = 0.0
            for step in range(1, SERVER_STEPS + 1):
                begin = time.perf_counter()
                tracker.log(step, {f"metric_{index}": float(step) for index in range(METRICS)})
                worst = max(worst, time.perf_counter() - begin)
                time.sleep(0.01)
                if step == SERVER_STEPS // 3:
                    server.kill()
            server.start()
            tracker._drain_seconds = 120.0
            tracker.close()
        gateway = MlflowGateway(server.uri)
        assert run_id is not None
        missing = doubled = 0
        for index in range(METRICS):
            steps = [step for step, _, _ in gateway.metric_history(run_id, f"metric_{index}")]
            missing += len(set(range(1, SERVER_STEPS + 1)) - set(steps))
            doubled += len(steps) - len(set(steps))
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        server.kill()
    return {"metrics_lost": missing, "metrics_duplicated": doubled, "block_ms_max_server_down": worst * 1000}


def _busy_step(block: bytes, rounds: int) -> None:
    for _ in range(rounds):
        hashlib.sha256(block)  # leaves the GIL to the other threads, as a kernel call does, and keeps to one core


def measure_share(storage: Path) -> dict[str, float]:
    """Median over pairs of (step time with tracking / without) - 1, and the CPU time that tracking took beside that."""
    block = bytes(1 << 20)
    begin = time.perf_counter()
    _busy_step(block, 50)
    rounds = max(1, round(50 * 0.05 / (time.perf_counter() - begin)))
    step = 0

    def half(tracker: Tracker) -> tuple[float, float]:
        nonlocal step
        begin, cpu = time.perf_counter(), time.process_time() - time.thread_time()
        for _ in range(STEPS_PER_HALF):
            _busy_step(block, rounds)
            step += 1
            tracker.log(step, {f"metric_{index}": 0.5 for index in range(METRICS)})
        return time.perf_counter() - begin, time.process_time() - time.thread_time() - cpu

    ratios, actor_shares, thread_shares, walls = [], [], [], []
    with tracked_run(storage, "bench/share") as (tracking, run):
        run.run_id(timeout=120)
        tracker = run.ticket().open()
        tracker.resume(0)
        for pair in range(PAIRS):
            tracked = plain = 0.0
            for with_tracking in (pair % 2 == 0, pair % 2 == 1):
                if with_tracking:
                    before = tracking.service.ask("cpu_seconds")
                    tracked, threads = half(tracker)
                    tracker._sender.drain(60.0)  # now, not in the half without tracking
                    actor_shares.append((tracking.service.ask("cpu_seconds") - before) / tracked)
                    thread_shares.append(threads / tracked)
                else:
                    plain, _ = half(NullTracker())
            ratios.append(tracked / plain)
            walls.append(tracked)
        tracker.close()
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "step_share": statistics.median(ratios) - 1,
        "step_share_q1": low - 1,
        "step_share_q3": high - 1,
        "worker_threads_cpu_share": statistics.median(thread_shares),
        "actor_cpu_share": statistics.median(actor_shares),
        "step_ms": statistics.median(walls) / STEPS_PER_HALF * 1000,
    }


def main(as_json: bool = False) -> dict[str, float]:
    """Runs all three, prints a table, and returns the figures."""
    import ray

    temporary = tempfile.mkdtemp(prefix="ybt", dir="/tmp")
    context = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20, "log_to_driver": False}
    ray.init(address="local", _temp_dir=f"{temporary}/r", logging_level="ERROR", **context)
    figures: dict[str, float] = {}
    try:
        for name, measure in (("block", measure_blocking), ("loss", measure_loss), ("share", measure_share)):
            storage = Path(temporary) / name
            storage.mkdir()
            figures |= measure(storage)
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
    for key, value in figures.items():
        print(f"{key:28} {value:10.4f}")
    if as_json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    main(parser.parse_args().json)
