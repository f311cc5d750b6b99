"""Who owns a result that is being made: one live owner at a time; a late one changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmyard.core.artifacts import ArtifactStore, Draft
from llmyard.core.errors import Busy
from llmyard.core.lease import acquire
from llmyard.core.storage import Storage

PRINT = "f" * 64


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def fill(draft: Draft) -> None:
    draft.storage.write(f"{draft.folder}/model.bin", b"weights" * 1000)


def take_over(draft: Draft) -> Draft:
    """The draft that another run gets once the owner of this one counts as dead."""
    draft.lease._stop.set()  # its process hangs: no more signs of life
    claim = f"{draft.lease.folder}/{draft.lease._claim}"
    record = {"owner": "elsewhere:boot:1:1", "value": draft.version, "time": 0.0}
    draft.storage.write(claim, json.dumps(record).encode())
    return ArtifactStore(draft.storage).begin(draft.kind, draft.name, draft.fingerprint)


def test_a_former_owners_late_commit_is_refused_while_the_new_one_works(store: ArtifactStore) -> None:
    former = store.begin("checkpoint", "base", PRINT)
    fill(former)
    now = take_over(former)
    assert now.version == former.version
    with pytest.raises(Busy), former:
        former.commit(config={}, parents=[], metrics={})
    with now:
        fill(now)
        made = now.commit(config={"by": "the new owner"}, parents=[], metrics={})
    assert store.get("base") == made
    assert made.local()


@pytest.mark.parametrize("beats", [False, True])
def test_a_former_owners_commit_after_the_new_ones_changes_nothing(store: ArtifactStore, beats: bool) -> None:
    former = store.begin("checkpoint", "base", PRINT)
    now = take_over(former)
    with now:
        fill(now)
        made = now.commit(config={"by": "the new owner"}, parents=[], metrics={})
    if beats:
        former.lease._beat()  # it wakes up and gives a sign of life first
    former.storage.write(f"{former.folder}/late.bin", b"late")
    with pytest.raises(Busy), former:
        former.commit(config={"by": "the former owner"}, parents=[], metrics={})
    assert store.get("base") == made
    assert store.get("base").config == {"by": "the new owner"}
    assert "late.bin" not in [entry.path for entry in store.get("base").files()]
    assert store.get("base").local()
    with store.begin("checkpoint", "base", PRINT) as later:
        assert later.version != made.version


CLAIM = """
import sys, time
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import Busy
from llmyard.core.storage import Storage
store = ArtifactStore(Storage(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    draft = store.begin("checkpoint", "base", "f" * 64)
except Busy as error:
    print("busy", flush=True)
else:
    draft.note(run="the first one's")
    print(f"won {draft.version}", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "commit":
        with draft:
            draft.commit(config={}, parents=[], metrics={})
"""


def claimant(store: ArtifactStore, end: str = "wait") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, store.storage.uri, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def test_of_processes_that_begin_at_once_exactly_one_wins(store: ArtifactStore) -> None:
    processes = [claimant(store) for _ in range(3)]
    try:
        for process in processes:
            tell(process)
        answers = sorted(answer(process).split()[0] for process in processes)
        assert answers == ["busy", "busy", "won"]
    finally:
        end(*processes)


def test_a_killed_owners_version_is_continued_with_its_notes(store: ArtifactStore) -> None:
    process = claimant(store)
    try:
        tell(process)
        won, version = answer(process).split()
        assert won == "won"
        with pytest.raises(Busy):
            store.begin("checkpoint", "base", PRINT)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with store.begin("checkpoint", "base", PRINT) as draft:
            assert (draft.version, draft.continued) == (version, True)
            assert draft.recall() == {"run": "the first one's"}
    finally:
        end(process)


def test_of_processes_that_find_a_dead_owner_exactly_one_takes_over(store: ArtifactStore) -> None:
    dead = claimant(store)
    tell(dead)
    version = answer(dead).split()[1]
    end(dead)
    processes = [claimant(store) for _ in range(3)]
    try:
        for process in processes:
            tell(process)
        answers = sorted(answer(process) for process in processes)
        assert answers == ["busy", "busy", f"won {version}"]
    finally:
        end(*processes)


def test_a_lease_is_free_again_after_its_release(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with acquire(storage, "work", "one") as lease:
        assert not lease.taken_over
        with pytest.raises(Busy):
            acquire(storage, "work", "two")
    with acquire(storage, "work", "two") as lease:
        assert (lease.value, lease.taken_over) == ("two", False)


def test_a_torn_claim_is_taken_over(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("work/000007-abc.json", b"")
    with acquire(storage, "work", "mine") as lease:
        assert lease.fence == 8
