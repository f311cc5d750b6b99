"""Jobs on a real head with token auth: exit codes, attaching, lost connections, lost drivers, stopping."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this one

from ray_head import PATIENCE, Head, asked, started_head, wait_until

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

# Waits for a file, and says that it does; a count of its starts is left in a file beside.
WAIT = """
import json, os, pathlib, sys, time
gate, output = map(pathlib.Path, sys.argv[1:3])
with open(f"{gate}.started", "a") as file:
    file.write("x")
while not gate.exists():
    time.sleep(0.1)
(output / "metrics.json").write_text(json.dumps({"waited": 1}))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head() as found:
        yield found


class Wire:
    """A port that leads to another, until it is cut; then to nowhere, until it is mended."""

    def __init__(self, target: int) -> None:
        self._target, self._open, self._is_cut = target, list[socket.socket](), False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                if self._is_cut:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._is_cut = True
        while self._open:
            each = self._open.pop()
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")  # one for all: making MLflow's tables takes its time


@pytest.fixture
def wire(head: Head) -> Iterator[Wire]:
    found = Wire(head.port)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _token(head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shell.json = shell.debug = False
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.chdir(tmp_path)


def waiting_job(folder: Path, name: str, has_first: bool = True) -> Path:
    """Writes a job, 流水线-NAME, whose second stage waits for the file ``gate``; or whose only one does."""
    (folder / "wait.py").write_text(WAIT, encoding="utf-8")
    first = {"kind": "command", "output": f"{name}-first", "command": ["python3", "-c", "pass"]}
    second = {
        "kind": "command", "output": f"{name}-second", "reads": ["wait.py"],
        "takes": {"first": f"files/{name}-first"} if has_first else {},
        "command": ["python3", "wait.py", str(folder / "gate"), "{output}"],
    }  # fmt: skip
    job = folder / f"{name}-任务.yaml"
    whole = {"kind": "pipeline", "name": f"流水线-{name}", "stages": [first, second] if has_first else [second]}
    job.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    return job


def started(folder: Path) -> int:
    file = folder / "gate.started"
    return len(file.read_text(encoding="utf-8")) if file.exists() else 0


def submitting(job: Path, address: str, storage: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmyard", "submit", job.name, "--address", address, "--storage", str(storage)]
    return subprocess.Popen(
        [*command, "--shared-paths", *more], cwd=job.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def test_a_token_is_asked_for_and_the_wrong_one_refused(
    head: Head, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["jobs", "list", "--address", head.url]) == 0
    job = waiting_job(tmp_path, "refused")
    wanted = ["submit", str(job), "--address", head.url, "--storage", "s3://b", "--json"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert main(wanted) == 2
    assert "refuses the token from RAY_AUTH_TOKEN" in last_json(capsys.readouterr().out)["error"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(wanted) == 2
    assert "asks for a token, and none was found" in last_json(capsys.readouterr().out)["error"]
    assert not [each for each in asked(head, "/api/jobs/") if each["type"] == "SUBMISSION"]


def test_a_lost_driver_is_gone_on_with_and_nothing_is_shown_twice(
    head: Head, wire: Wire, store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = waiting_job(tmp_path, "lost")
    first = submitting(job, f"127.0.0.1:{wire.port}", store, "--json")
    try:
        wait_until(lambda: started(tmp_path) or first.poll() is not None, "the second stage does not begin")
        assert first.poll() is None, first.communicate()
        assert main(["submit", str(job), "--address", head.url, "--storage", str(store), "--shared-paths", "--detach",
                     "--json"]) == 0  # fmt: skip
        attached = last_json(capsys.readouterr().out)["submission_id"]
        (submitted,) = (each for each in asked(head, "/api/jobs/") if each["type"] == "SUBMISSION")
        assert attached == submitted["submission_id"] == f"lost-{attached.partition('-')[2]}"
        wire.cut()
        time.sleep(1)
        os.kill(int(submitted["driver_info"]["pid"]), signal.SIGKILL)
        wire.mend()
        out, shown = first.communicate(timeout=PATIENCE)
    finally:
        if first.poll() is None:
            first.kill()
            first.communicate()
    ended = last_json(out)
    assert (first.returncode, ended["status"]) == (1, "failed"), shown
    assert "killed by signal 9" in ended["error"]
    assert f"runs resume {attached}" in shown
    assert shown.count("Running entrypoint for job") == 1, shown
    assert shown.count("lost-first: ") == 2, shown  # it begins, it ends

    (tmp_path / "gate").touch()
    job.unlink()  # what is gone on with is what was submitted
    capsys.readouterr()
    assert main(["runs", "resume", attached, "--storage", str(store), "--json"]) == 0
    ended = last_json(capsys.readouterr().out)
    assert ended["submission_id"] == f"{attached}-2"
    artifacts = ArtifactStore(Storage(str(store)))
    (one,) = artifacts.versions("files", "lost-first")
    (two,) = artifacts.versions("files", "lost-second")
    assert two.parents == (one.reference,)
    assert two.metrics == {"waited": 1.0}
    assert [each["name"] for each in ended["artifacts"]] == [one.name, two.name]
    assert started(tmp_path) == 2


def test_the_jobs_own_exit_code_comes_back(
    head: Head, store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "kind: command\noutput: made\ntakes: {x: files/nowhere}\ncommand: ['true', '{x}']\n"
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    where = ["--address", head.url, "--storage", str(store), "--shared-paths"]
    where += ["--code", "image"]  # this environment is the head's too
    assert main(["submit", "wrong.yaml", *where, "--json"]) == 2
    shown = capsys.readouterr()
    assert "no files 'files/nowhere'" in last_json(shown.out)["error"]
    assert "no files 'files/nowhere'" in shown.err


def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(
    head: Head, store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = waiting_job(tmp_path, "stopped", has_first=False)
    followed = submitting(job, head.url, store, "--id", "mine")
    try:
        wait_until(lambda: started(tmp_path) or followed.poll() is not None, "the second stage does not begin")
        followed.send_signal(signal.SIGINT)
        _, shown = followed.communicate(timeout=PATIENCE)
    finally:
        if followed.poll() is None:
            followed.kill()
            followed.communicate()
    assert followed.returncode == 130, shown
    assert "jobs stop mine" in shown
    at = ["--address", head.url]
    assert main(["jobs", "status", "mine", *at, "--json"]) == 0
    assert last_json(capsys.readouterr().out)["job"]["status"] == "RUNNING"
    assert main(["jobs", "stop", "mine", *at]) == 0
    assert main(["jobs", "logs", "mine", *at, "--follow"]) == 130
    shown = capsys.readouterr()
    assert "stopped-second" in shown.out
    assert "was stopped" in shown.err
    assert not (tmp_path / "gate").exists()
