"""Runs that are opened and ended at the same time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
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


@dataclass
class Begun:
    """A service with a run that a driver has begun."""

    service: TrackingService
    gateway: SlowGateway
    folder: RunFolder
    token: str

    def thread(self, method: str) -> tuple[threading.Thread, list[Any]]:
        """Calls a method with the run's token beside this thread; what it answers, or raises, is put in the list."""
        said: list[Any] = []

        def call() -> None:
            try:
                said.append(getattr(self.service, method)(self.token))
            except TrackingUnavailable as error:
                said.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        return thread, said


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    monkeypatch.setattr(tracking_service, "MlflowGateway", SlowGateway)
    service = TrackingService("memory", None, tmp_path, background=False)
    gateway: Any = service._gateway
    spec = RunSpec(token="shards/x@1", name="x", experiment="llmyard", owner="me")
    folder = RunFolder(tmp_path, spec.token)
    folder.begin("memory", spec)
    return Begun(service, gateway, folder, spec.token)


def test_a_run_that_is_opened_while_it_is_settled_stays_ended(begun: Begun) -> None:
    begun.folder.end("FAILED", {})
    settles, _ = begun.thread("settle")
    assert begun.gateway.opening.wait(30)  # the run is not known yet: it is made, to be ended
    opens, said = begun.thread("open")
    opens.join(0.2)
    assert opens.is_alive()  # it waits for the end
    begun.gateway.let_go.set()
    settles.join(30)
    opens.join(30)
    assert begun.gateway.statuses == ["RUNNING", "FAILED"]
    assert isinstance(said[0], TrackingUnavailable)


def test_a_run_that_is_settled_while_it_opens_ends_as_noted(begun: Begun) -> None:
    opens, said = begun.thread("open")
    assert begun.gateway.opening.wait(30)
    begun.folder.end("FAILED", {})
    settles, _ = begun.thread("settle")
    settles.join(0.2)
    assert settles.is_alive()  # it waits until the run is open
    begun.gateway.let_go.set()
    opens.join(30)
    settles.join(30)
    assert said == ["run"]
    assert begun.gateway.statuses == ["RUNNING", "FAILED"]
    assert not begun.folder.path.exists()
