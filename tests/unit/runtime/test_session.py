"""A session without Ray: its folder, its signal handlers, and what killed ones left."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmyard.runtime.session import OWNER, _sweep, session, session_folder


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stands for Ray, which puts in a handler of its own when it starts."""
    calls: list[str] = []

    def init(**options: object) -> None:
        calls.append("init")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    stand_in = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: calls.append("shutdown"))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    before = signal.getsignal(signal.SIGTERM)
    yield calls
    signal.signal(signal.SIGTERM, before)


def test_a_session_has_a_folder_that_goes_with_it(ray: list[str]) -> None:
    assert session_folder() is None
    with session("somewhere:6379"):
        folder = Path(str(session_folder()))
        assert (folder / OWNER).is_file()
        tempfile.mkdtemp(prefix="train-", dir=folder)
    assert not folder.exists()
    assert session_folder() is None
    assert ray == ["init", "shutdown"]


def test_the_commands_own_answer_to_sigterm_outlives_rays_start(ray: list[str]) -> None:
    def ours(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, ours)
    with session("somewhere:6379"):
        assert signal.getsignal(signal.SIGTERM) is ours


def test_what_a_killed_command_left_is_swept_with_what_its_training_kept() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ly-", dir="/tmp"))
    (folder / OWNER).write_text(f"{socket.gethostname()}:anotherboot:1:1", encoding="utf-8")
    (folder / "train-x" / "deep").mkdir(parents=True)
    _sweep()
    assert not folder.exists()
