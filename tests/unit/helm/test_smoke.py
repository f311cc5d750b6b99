"""What `helm test` runs in the cluster, against servers that answer well and badly."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import charted
import pytest

SCRIPT = charted.CHART / "files" / "smoke.py"


@contextmanager
def server(statuses: dict[str, int]) -> Iterator[str]:
    """Yields the address of a server that answers paths so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def smoke(*addresses: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8"), *addresses]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"TIMEOUT_SECONDS": "0"})


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"/health": 200, "/v1/models": 401}, "ok"),
        ({"/health": 503, "/v1/models": 401}, "/health answers 503 instead of 200"),
        ({"/health": 200, "/v1/models": 200}, "/v1/models answers 200 without a key instead of 401"),
    ],
)
def test_an_endpoint_must_answer_and_ask_for_a_key(statuses: dict[str, int], said: str) -> None:
    with server(statuses) as address:
        done = smoke(address)
    assert done.stdout == f"{address}: {said}\n"
    assert done.returncode == (0 if said == "ok" else 1)


def test_nobody_there_is_told() -> None:
    done = smoke("http://127.0.0.1:9")
    assert "/health answers nothing instead of 200" in done.stdout
    assert done.returncode == 1


def test_a_dashboard_is_asked_for_jobs() -> None:
    check = charted.script("llmyard/files/smoke").check
    with server({"/": 200, "/api/jobs/": 401}) as address:
        module = charted.script("llmyard/files/smoke")
        original = module.status
        module.status = lambda url: original(url.replace("http://ray:8265", address))
        try:
            assert check("http://ray:8265", 0.0) == ""
        finally:
            module.status = original
