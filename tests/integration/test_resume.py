"""A driver killed in mid-training: the next run goes on from the checkpoint and ends with the same weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.storage import Storage
from llmyard.core.tracking import artifact_root, tracking_uri
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

STEPS, EVERY, PATIENCE = 300, 20, 240.0
PREPARE = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 150}],
    "tokenizer": {"vocab_size": 400}, "splits": {"validation": 0.1},
}  # fmt: skip
PRETRAIN = {
    "kind": "pretrain", "output": "base", "shards": "corpus", "sequence_length": 64, "steps": STEPS,
    "model": {"family": "gpt2", "layers": 2, "hidden_size": 64, "heads": 2, "dropout": 0.1},
    "batch": {"size": 8, "micro_batch": 4}, "checkpoint_every_steps": EVERY, "resources": {"workers": 2},
}  # fmt: skip


def start(job: Path, storage: Path) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("llmyard")), "run", str(job), "--storage", str(storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def marks(storage: Path, fence: int) -> list[int]:
    """Steps of the checkpoints that an owner has marked so far."""
    found = storage.glob(f"checkpoint/base/*/_making/progress/*-f{fence}-*.json")
    return sorted(int(path.name.partition("-")[0]) for path in found)


def wait_for_mark(driver: subprocess.Popen[str], storage: Path, fence: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and driver.poll() is None:
        if found := marks(storage, fence):
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of owner {fence}: {driver.communicate()[0] if driver.poll() else 'too slow'}")


def lives(process: psutil.Process) -> bool:
    """Whether exactly this process still runs (its pid may be another's by now)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def survivors(family: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that outlive their killed driver; ended here, by exact pid, so that no test leaks.

    Ray's agents look for their dead GCS for a minute before they end (`RAY_gcs_rpc_server_reconnect_timeout_s`).
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and any(lives(process) for process in family):
        time.sleep(0.2)
    left = [process for process in family if lives(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return left


def weights(artifact: Artifact) -> bytes:
    return artifact.local("model.safetensors").read_bytes()


def test_a_killed_driver_costs_no_step_and_changes_no_bit(shared_ray: None, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    validate = job_adapter().validate_python
    run(validate(PREPARE), storage=str(whole))
    for kind in ("shards", "tokenizer"):
        shutil.copytree(whole / kind, killed / kind)
    (undisturbed,) = run(validate(PRETRAIN), storage=str(whole))

    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(PRETRAIN), encoding="utf-8")
    first = start(job, killed)
    try:
        reached = wait_for_mark(first, killed, fence=1)
        family = psutil.Process(first.pid).children(recursive=True)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    assert reached < STEPS
    store = ArtifactStore(Storage(str(killed)))
    assert list(store.list("checkpoint")) == []

    second = start(job, killed)
    try:
        again = wait_for_mark(second, killed, fence=2)
        output = second.communicate(timeout=PATIENCE)[0]
    finally:
        if second.poll() is None:
            os.kill(second.pid, signal.SIGKILL)
            second.communicate()
    assert second.returncode == 0, output
    assert again > reached
    resumed = store.get("base", "checkpoint")
    assert weights(resumed) == weights(undisturbed.artifacts[0])
    loss = "validation_loss"
    assert resumed.metrics[loss] == undisturbed.metrics[loss]
    assert [path.name for path in (killed / "checkpoint" / "base").iterdir() if path.name[0] != "_"] == [
        resumed.version
    ]
    assert runs(killed) == [(resumed.reference, "FINISHED")]
    assert survivors(family) == []


def runs(storage: Path) -> list[Any]:
    from llmyard.runtime.mlflow_gateway import MlflowGateway

    gateway = MlflowGateway(tracking_uri(str(storage)), artifact_root(str(storage)))
    return [(item.token, item.status) for item in gateway.runs(100)]
