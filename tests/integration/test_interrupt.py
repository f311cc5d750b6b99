"""A command that is stopped says so, gives its answer in JSON, and ends with 130, however it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.integration
LLMYARD = str(Path(sys.executable).with_name("llmyard"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_is_told_and_counted_as_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    job = {"kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 20_000}],
           "documents_per_task": 200}  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    storage = tmp_path / "store"
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = subprocess.Popen(
        [LLMYARD, "run", str(tmp_path / "job.yaml"), "--storage", str(storage), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(storage.glob("shards/corpus/*/_making/clean/*.json")):
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    command.send_signal(number)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 130
    assert "interrupted; run the same command again" in errors
    assert "SIGTERM received" not in errors
    assert "Traceback" not in errors
    assert json.loads(output.splitlines()[-1])["error"] == "interrupted"
