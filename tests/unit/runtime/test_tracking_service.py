"""A run that ends while it is still being opened."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.tracking import RunSpec, TrackingUnavailable
from llmyard.runtime import tracking_service
from llmyard.runtime.tracking_service import RunFolder, TrackingService


class SlowGateway:
    """One run in memory; opening it waits until it is let go."""

    def __init__(self, uri: str, artifact_root: str | None) -> None:
        self.uri, self.statuses = uri, list[str]()
        self.opening, self.let_go = threading.Event(), threading.Event()

    def find_run(self, token: str, experiment: str) -> str | None:
        return "run" if self.statuses else None

    def is_owned(self, run_id: str) -> bool:
        return False

    def start_run(self, spec: RunSpec) -> str:
        self.opening.set()
        self.let_go.wait(30)
        self.statuses.append("RUNNING")
        return "run"

    def finish(self, run_id: str, status: str, **_: Any) -> None:
        self.statuses.append(status)

    def forget(self, run_id: str) -> None:
        """Nothing is held."""


def test_a_run_that_is_opened_while_it_is_settled_stays_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_service, "MlflowGateway", SlowGateway)
    service = TrackingService("memory", None, tmp_path, background=False)
    gateway: Any = service._gateway
    spec = RunSpec(token="shards/x@1", name="x", experiment="llmyard", owner="me")
    folder = RunFolder(tmp_path, spec.token)
    folder.begin("memory", spec)
    folder.end("FAILED", {})
    settles = threading.Thread(target=service.settle, args=(spec.token,))
    settles.start()
    assert gateway.opening.wait(30)  # the run is not known yet: it is made, to be ended

    def late() -> None:
        with pytest.raises(TrackingUnavailable):
            service.open(spec.token)

    opens = threading.Thread(target=late)
    opens.start()
    opens.join(0.2)  # it must wait
    gateway.let_go.set()
    settles.join(30)
    opens.join(30)
    assert gateway.statuses == ["RUNNING", "FAILED"]


def test_a_run_that_is_settled_while_it_opens_ends_as_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_service, "MlflowGateway", SlowGateway)
    service = TrackingService("memory", None, tmp_path, background=False)
    gateway: Any = service._gateway
    spec = RunSpec(token="shards/x@1", name="x", experiment="llmyard", owner="me")
    folder = RunFolder(tmp_path, spec.token)
    folder.begin("memory", spec)
    opens = threading.Thread(target=service.open, args=(spec.token,))
    opens.start()
    assert gateway.opening.wait(30)
    folder.end("FAILED", {})
    settles = threading.Thread(target=service.settle, args=(spec.token,))
    settles.start()
    settles.join(0.2)  # it must wait
    gateway.let_go.set()
    opens.join(30)
    settles.join(30)
    assert gateway.statuses == ["RUNNING", "FAILED"]
    assert not folder.path.exists()
