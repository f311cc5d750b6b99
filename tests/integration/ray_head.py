"""A Ray head of a test module's own, with token auth, as a cluster that jobs are submitted to."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 180.0


@dataclass(frozen=True)
class Head:
    """A head.

    Attributes:
        url: Of its dashboard.
        token: That it asks for.
    """

    url: str
    port: int
    token: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def started_head() -> Iterator[Head]:
    """Starts a head with two CPUs for the time of the block."""
    folder = tempfile.mkdtemp(prefix="lyh-", dir="/tmp")  # short: Unix socket paths end at 107 characters
    token = secrets.token_hex(16)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
             "runtime-env-agent-port", "metrics-export-port", "ray-client-server-port")  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    dropped = (
        "RAY_ADDRESS",
        "MLFLOW_TRACKING_URI",
        "LLMYARD_STORAGE",
        "VIRTUAL_ENV",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    )
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
        "PATH": "/usr/bin:/bin",  # its `python` is not the one that Ray runs in
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--temp-dir={folder}",
        "--dashboard-host=127.0.0.1", "--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    log = Path(folder, "head.log")
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    port = ports["dashboard-port"]
    found = Head(f"http://127.0.0.1:{port}", port, token)
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: process.poll() is not None or is_up(found), f"the head does not come up: see {log}")
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield found
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for each in [*family, psutil.Process(process.pid)] if process.poll() is None else family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def is_up(head: Head) -> bool:
    try:
        nodes = asked(head, "/api/v0/nodes")["data"]["result"]["result"]
        return any(node["state"] == "ALIVE" for node in nodes)
    except (OSError, KeyError):
        return False


def asked(head: Head, path: str) -> Any:
    request = urllib.request.Request(head.url + path, headers={"Authorization": f"Bearer {head.token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
