"""Storage: a reader sees all of a file or nothing; a full disk is one clear error and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import LlmyardError, RequestError
from llmyard.core.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "there"))


def failing(code: int) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_what_was_written_is_read_and_listed(storage: Storage) -> None:
    storage.write("a/b/文件.bin", b"12345")
    storage.write("a/c.bin", b"")
    assert storage.read("a/b/文件.bin") == b"12345"
    assert [(item.path, item.size) for item in storage.list("a", recursive=True)] == [("b/文件.bin", 5), ("c.bin", 0)]
    assert [item.path for item in storage.list("a")] == ["c.bin"]
    assert storage.folders("a") == ["b"]


def test_what_is_not_there_is_none_or_empty(storage: Storage) -> None:
    assert storage.read("a/b") is None
    assert list(storage.list("a")) == []
    assert storage.folders("a") == []
    storage.delete("a")
    storage.delete_folder("a")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "free some disk space"), (errno.EROFS, "read-only"), (errno.EIO, "--storage")]
)
def test_a_write_that_fails_says_the_remedy_and_leaves_no_file(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, call: str, code: int, remedy: str
) -> None:
    storage.write("kept.bin", b"old")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(LlmyardError) as caught:
        storage.write("new.bin", b"x" * 1000)
    assert remedy in caught.value.remedy
    assert "new.bin" in caught.value.what
    with pytest.raises(LlmyardError):
        storage.write("kept.bin", b"new")
    monkeypatch.undo()
    assert storage.read("kept.bin") == b"old"
    assert [item.path for item in storage.list("", recursive=True)] == ["kept.bin"]


def test_a_disk_that_fills_up_before_the_commit_commits_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(storage)
    draft = store.begin("checkpoint", "base", "f" * 64)
    draft.storage.write(f"{draft.folder}/model.bin", b"weights")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(LlmyardError, match="cannot write"), draft:
        draft.commit(config={}, parents=[], metrics={})
    assert list(store.list()) == []


def test_a_path_below_a_file_is_a_clear_error(storage: Storage) -> None:
    storage.write("a", b"file")
    with pytest.raises(LlmyardError, match="cannot write"):
        storage.write("a/b", b"")


def test_a_storage_pickles_to_the_same_place(storage: Storage) -> None:
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"  # noqa: S301 - our own bytes


def test_the_given_storage_wins_over_job_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMYARD_STORAGE", raising=False)
    assert Storage.resolve().uri == str(tmp_path / ".llmyard")
    monkeypatch.setenv("LLMYARD_STORAGE", "/environment")
    assert Storage.resolve().uri == "/environment"
    assert Storage.resolve(None, "/job").uri == "/job"
    assert Storage.resolve("/given", "/job").uri == "/given"


def test_the_home_folder_and_file_uris_are_local_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Storage("~/artifacts").uri == "/home/someone/artifacts"
    assert Storage("file:///data/x").local("y") == Path("/data/x/y")


def test_an_unknown_storage_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="cannot open the storage"):
        Storage("nosuch://bucket").read("a")
    with pytest.raises(RequestError, match="not on this machine"):
        Storage("s3://bucket/x").local("a")
