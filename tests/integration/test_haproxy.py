"""An endpoint behind HAProxy, as `llmyard serve --haproxy` starts it: answers, and what is open to whom."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmyard.runtime.session import OWNER
from llmyard.serving.haproxy import binary

pytestmark = pytest.mark.integration
CHINESE, ENGLISH = "马洛找到了一盏绿色的灯。", "Malo found a green lamp."
STARTS_SECONDS = 240


@pytest.fixture(scope="module")
def endpoint(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, psutil.Process]]:
    """The URL, a key, and the process of an endpoint."""
    if binary() is None:
        pytest.skip("HAProxy is not here: ray[serve] brings it on Linux only")
    folder = tmp_path_factory.mktemp("haproxy")
    store = shutil.copytree(tiny.store.storage.uri, folder / "store")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "out"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "llmyard", "serve", "translator", "--port", str(port), "--haproxy", "--new-key"]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--storage", str(store)], stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + STARTS_SECONDS
        while "ly-" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.5)
        said = log.read_text(encoding="utf-8")
        key = next(word for word in said.split() if word.startswith("ly-"))
        yield f"http://127.0.0.1:{port}", key, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    owners = [note.read_text(encoding="utf-8") for note in Path("/tmp").glob(f"ly-*/{OWNER}")]
    assert not [owner for owner in owners if f":{process.pid}:" in owner]  # its folders went with it


def ask(url: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_what_is_behind_haproxy_answers_whom_it_knows(endpoint: tuple[str, str, psutil.Process]) -> None:
    url, key, _ = endpoint
    asked = {"text": CHINESE, "target_language": "en"}
    status, said = ask(f"{url}/v1/translate", asked, key)
    assert (status, said["translation"]) == (200, ENGLISH)
    for wrong in ("", "ly-wrong"):
        status, said = ask(f"{url}/v1/translate", asked, wrong)
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
    assert ask(f"{url}/v1/translate", {"text": CHINESE}, key)[0] == 400


def test_nothing_of_it_is_open_to_the_network(endpoint: tuple[str, str, psutil.Process]) -> None:
    _, _, process = endpoint
    proxies = [each for each in process.children(recursive=True) if each.name() == "haproxy"]
    assert proxies
    for proxy in proxies:
        heard = [each.laddr for each in proxy.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        assert heard
        assert {address.ip for address in heard} == {"127.0.0.1"}
    config = Path(proxies[-1].cmdline()[proxies[-1].cmdline().index("-f") + 1])
    admin = config.with_name("admin.sock")
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700


def test_a_replicas_own_port_asks_for_a_key(endpoint: tuple[str, str, psutil.Process]) -> None:
    _, key, process = endpoint
    replicas = [each for each in process.children(recursive=True) if each.name().startswith("ray::ServeReplica")]
    assert replicas
    answered = 0
    for replica in replicas:
        for each in replica.net_connections("tcp"):
            if each.status != psutil.CONN_LISTEN or each.laddr.ip != "127.0.0.1":
                continue
            here = f"http://127.0.0.1:{each.laddr.port}/v1/models"
            try:
                status, said = ask(here)
            except (OSError, ValueError):  # it speaks gRPC there
                continue
            answered += 1
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
            assert ask(here, key=key)[0] == 200
    assert answered
