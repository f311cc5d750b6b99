"""Logs of every rank, a storage that is not shared, and hangs that the next worker tells of."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmyard.core.errors import RequestError
from llmyard.core.storage import Storage
from llmyard.stages import training
from llmyard.stages.observing import RankLog
from llmyard.training.peers import Peers
from llmyard.training.watchdog import HUNG


def job_in(folder: Path, token: str = "t") -> Any:
    return SimpleNamespace(storage=Storage(str(folder)), folder="checkpoint/base/v1", token=token)


def test_a_rank_goes_on_with_its_log(tmp_path: Path) -> None:
    for number in range(2):
        log = RankLog(job_in(tmp_path), rank=1)
        logging.getLogger("llmyard").info("worker started: attempt %d", number)
        log.close()
    logging.getLogger("llmyard").warning("nobody's")
    assert RankLog(job_in(tmp_path), rank=1).starts == 2
    text = (tmp_path / "checkpoint/base/v1/_making/logs/rank-0001.log").read_text(encoding="utf-8")
    assert text.count("worker started") == 2
    assert "nobody's" not in text


def test_a_hang_is_told_by_the_next_worker_only(tmp_path: Path) -> None:
    log = RankLog(job_in(tmp_path), rank=0)
    assert not log.hung
    logging.getLogger("llmyard").info("worker started")
    log.file.write(f"{HUNG}0:15:00)!\nThread 0x1 (most recent call first):\n")
    log.close()
    second = RankLog(job_in(tmp_path), rank=0)
    assert second.hung
    logging.getLogger("llmyard").info("worker started")
    second.close()
    third = RankLog(job_in(tmp_path), rank=0)
    assert not third.hung
    third.close()


def test_on_remote_storage_the_log_is_gone_on_with_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    job = job_in(tmp_path / "bucket")
    job.storage = Remote(str(tmp_path / "bucket"))
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / machine))
        log = RankLog(job, rank=0)
        logging.getLogger("llmyard").info("worker started: on machine %s", machine)
        log.close()
        assert not list((tmp_path / machine).rglob("*.log"))
    text = (job.storage.read(f"{job.folder}/_making/logs/rank-0000.log") or b"").decode()
    assert "machine one" in text
    assert "machine two" in text


class Remote(Storage):
    """A folder that is reached as a bucket is."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.is_local = False

    @property
    def _opened(self) -> Any:  # type: ignore[override]
        from pyarrow import fs

        filesystem = fs.SubTreeFileSystem(self.uri, fs.LocalFileSystem())
        filesystem.create_dir("checkpoint/base/v1/_making/logs", recursive=True)
        return filesystem, ""


def test_a_storage_that_a_worker_does_not_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SHARED_SECONDS", 0.3)
    job = job_in(tmp_path)
    with pytest.raises(RequestError, match="is not shared") as refused:
        training.refuse_unshared(job, Peers())
    assert str(tmp_path) in refused.value.what
    assert "s3://" in refused.value.remedy
    job.storage.write(f"{job.folder}/{training.SHARED}", b"of another run")
    with pytest.raises(RequestError, match="is not shared"):
        training.refuse_unshared(job, Peers())
    job.storage.write(f"{job.folder}/{training.SHARED}", b"t")
    training.refuse_unshared(job, Peers())
