"""Commands that are stopped while Ray works: one message, one JSON object, exit code 130, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytestmark = pytest.mark.integration

PATIENCE = 240.0
JOB: dict[str, Any] = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 20_000}],
    "documents_per_task": 50, "tokenizer": {"vocab_size": 400},
}  # fmt: skip
SMALL: dict[str, Any] = JOB | {"sources": [{"kind": "smallworld", "documents": 200}], "splits": {"validation": 0.1}}
TRAINED: dict[str, Any] = {
    "kind": "pretrain", "output": "base", "shards": "corpus", "sequence_length": 32, "steps": 100_000,
    "model": {"family": "gpt2", "layers": 1, "hidden_size": 16, "heads": 2}, "checkpoint_every_steps": 100_000,
}  # fmt: skip


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("llmyard")), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip


def stopped(
    command: subprocess.Popen[str], ready: Callable[[], bool], number: signal.Signals
) -> tuple[int, list[str], str]:
    """Sends a signal once the command is at work; returns its exit code and what it said."""
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline, "it did not begin"
            time.sleep(0.05)
        family = psutil.Process(command.pid).children(recursive=True)
        os.kill(command.pid, number)
        out, err = command.communicate(timeout=PATIENCE)
    finally:
        command.kill()
    for text in (out, err):
        for word in ("Traceback", "***", "SIGTERM", "raylet"):
            assert word not in text, text
    _, alive = psutil.wait_procs(family, timeout=90)
    for process in alive:  # by their exact ids, so that no test leaks
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not alive
    return command.returncode, out.splitlines(), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_job_that_is_stopped_says_so_and_ends_in_one_object(tmp_path: Path, number: signal.Signals) -> None:
    job, store = tmp_path / "job.yaml", tmp_path / "store"
    job.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    command = start("run", str(job), "--storage", str(store), "--json")
    code, out, err = stopped(command, lambda: bool(list(store.glob("shards/corpus/*/_making/clean/*"))), number)
    assert code == 130
    assert [json.loads(line) for line in out] == [{"status": "failed", "artifacts": [], "error": "interrupted"}]
    assert err.splitlines()[0] == "starting Ray …"
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"


# Ray's agents wait a minute for a dead gcs_server before they end.
@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.slow)])
def test_a_job_whose_ray_dies_says_so(tmp_path: Path, name: str) -> None:
    job, store = tmp_path / "job.yaml", tmp_path / "store"
    job.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    command = start("run", str(job), "--storage", str(store))
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(store.glob("shards/corpus/*/_making/clean/*")):
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline, "it did not begin"
            time.sleep(0.05)
        family = psutil.Process(command.pid).children(recursive=True)
        next(each for each in family if each.name() == name).kill()
        err = command.communicate(timeout=PATIENCE)[1]
    finally:
        command.kill()
    _, alive = psutil.wait_procs(family, timeout=90)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert command.returncode == 1
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: a process of Ray on this machine died, its raylet or its gcs_server"
    ]
    assert not alive


def test_training_that_is_stopped_saves_where_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name, fields in {"corpus": SMALL, "base": TRAINED}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    corpus = start("run", str(tmp_path / "corpus.yaml"), "--storage", str(store))
    assert corpus.wait(PATIENCE) == 0
    command = start("run", str(tmp_path / "base.yaml"), "--storage", str(store))

    def trains() -> bool:
        lines = [line for file in (store / "spool").rglob("*.jsonl") for line in file.read_text().splitlines()]
        return len(lines) > 20

    code, _, err = stopped(command, trains, signal.SIGTERM)
    assert code == 130, err
    (mark,) = store.glob("checkpoint/base/*/_making/progress/*.json")
    assert int(mark.name.partition("-")[0]) > 10  # no checkpoint was due before step 100,000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_an_endpoint_is_stopped_without_noise(tiny: Any, tmp_path: Path, number: signal.Signals) -> None:
    from llmyard.serving.keys import hashes

    port = str(psutil.Process().pid % 20_000 + 20_000)
    command = start("serve", "base", "--storage", tiny.store.storage.uri, "--new-key", "--port", port)
    before = len(hashes(tiny.store.storage))
    code, out, err = stopped(command, lambda: len(hashes(tiny.store.storage)) > before, number)
    assert code == 130
    assert out[0] == "starting Ray …"
    assert any("API key" in line for line in out)
    assert err == "interrupted; run the same command again to go on\n"
