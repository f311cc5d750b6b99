"""A private Ray that the tests of this folder share; only what is started here is stopped here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A Ray of two CPUs; `llmyard.runtime.session` joins it because this process is connected already."""
    from llmyard.runtime.session import _quiet, start

    _quiet()
    import ray

    folder = tempfile.mkdtemp(prefix="lyt-", dir="/tmp")  # short: Unix socket paths end at 107 characters
    try:
        start(folder, 2, 200 << 20)
        with pytest.MonkeyPatch.context() as patch:
            # Nobody takes its node away; whoever watched for that would take a process at every start of the workers.
            patch.setattr("llmyard.runtime.trainer._WATCHER_ASKED_FOR", "0")
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def small_trainings_here() -> Iterator[None]:
    """A training with one worker runs in the test's process, as a trial of a sweep does: starting Ray's takes the
    processors half a minute. Those with two workers, and whatever a command starts, show that.
    """
    from llmyard.runtime.trainer import training_here

    with training_here(True):
        yield


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to the SQLite store of each test's own storage."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LLMYARD_STORAGE", raising=False)
