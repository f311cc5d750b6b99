"""The artifact store: nothing exists without its mark, nothing altered is read, one live owner a result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import Artifact, ArtifactStore, Draft, FileEntry, sha256_of
from llmyard.core.errors import Busy, CorruptArtifact, LlmyardError, MissingArtifact, RequestError
from llmyard.core.lease import acquire
from llmyard.core.storage import Storage

PRINT = "f" * 64


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def make(
    store: ArtifactStore,
    name: str = "base",
    kind: str = "checkpoint",
    print_: str = PRINT,
    parents: tuple[str, ...] = (),
) -> Artifact:
    with store.begin(kind, name, print_) as draft:
        fill(draft)
        return draft.commit(config={"steps": 3}, parents=parents, metrics={"loss": 1.5}, details={"说明": "测试"})


def fill(draft: Draft) -> None:
    draft.storage.write(f"{draft.folder}/model.bin", b"weights" * 1000)
    draft.storage.write(f"{draft.folder}/parts/a.txt", "文字".encode())


def in_store(artifact: Artifact, path: str) -> Path:
    return artifact.storage.local(artifact.folder, path)


def test_an_artifact_without_its_mark_does_not_exist(store: ArtifactStore) -> None:
    with store.begin("checkpoint", "base", PRINT) as draft:
        fill(draft)
        assert list(store.list()) == []
        assert store.find("checkpoint", "base", PRINT) is None
        with pytest.raises(MissingArtifact):
            store.get("base")
        made = draft.commit(config={}, parents=[], metrics={})
    assert store.get("base").reference == made.reference


def test_the_mark_is_the_last_file_written(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda self, path, data: (written.append(path), write(self, path, data))[1])
    artifact = make(store)
    ours = [path for path in written if path.startswith(artifact.folder)]
    assert ours[-1] == f"{artifact.folder}/artifact.json"
    assert sum(path.endswith("artifact.json") for path in ours) == 1


def test_what_was_committed_is_read_back(store: ArtifactStore) -> None:
    made = make(store)
    found = store.get(made.reference)
    assert found == made
    assert found.details == {"说明": "测试"}
    assert [entry.path for entry in found.files()] == ["model.bin", "parts/a.txt"]
    assert found.local("parts/a.txt").read_text(encoding="utf-8") == "文字"
    assert found.local() == in_store(found, "")


@pytest.mark.parametrize("path", ["model.bin", "parts/a.txt"])
def test_a_flipped_bit_is_found_when_the_file_is_read(store: ArtifactStore, path: str) -> None:
    artifact = make(store)
    file = in_store(artifact, path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(CorruptArtifact, match="does not match its checksum"):
        artifact.local(path)
    with pytest.raises(CorruptArtifact):
        store.get("base").local()


def test_a_flipped_bit_in_the_file_list_is_found(store: ArtifactStore) -> None:
    artifact = make(store)
    file = in_store(artifact, artifact.files_list)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtifact, match="file list"):
        artifact.files()
    assert store.find("checkpoint", "base", PRINT) is None


def test_a_missing_file_is_corrupt_and_an_unlisted_one_is_not_of_the_artifact(store: ArtifactStore) -> None:
    artifact = make(store)
    in_store(artifact, "stray.bin").write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match="no file stray"):
        artifact.local("stray.bin")
    in_store(artifact, "model.bin").unlink()
    with pytest.raises(CorruptArtifact, match="missing"):
        artifact.local("model.bin")


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_only_a_complete_artifact_lets_a_stage_be_skipped(store: ArtifactStore, damage: str) -> None:
    artifact = make(store)
    assert store.find("checkpoint", "base", PRINT) == artifact
    assert store.find("checkpoint", "base", "0" * 64) is None
    file = in_store(artifact, "model.bin")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"w")
    assert store.find("checkpoint", "base", PRINT) is None


def test_a_bare_name_is_the_newest_version_and_a_version_stays(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(store)
    monkeypatch.setattr(
        "llmyard.core.artifacts.time.gmtime", lambda: __import__("time").struct_time((2099,) + (1,) * 8)
    )
    second = make(store, print_="e" * 64)
    assert store.get("base") == second
    assert store.get(f"checkpoint/base@{first.version}") == first
    assert [item.version for item in store.versions("checkpoint", "base")] == [second.version, first.version]


def test_a_name_of_several_kinds_must_say_which(store: ArtifactStore) -> None:
    make(store)
    make(store, kind="report")
    with pytest.raises(RequestError, match="several artifacts: checkpoint/base, report/base"):
        store.get("base")
    assert store.get("report/base").kind == "report"
    assert store.get("base", "report").kind == "report"


def test_a_missing_artifact_says_what_there_is(store: ArtifactStore) -> None:
    make(store)
    with pytest.raises(MissingArtifact) as caught:
        store.get("bsae", "checkpoint")
    assert "checkpoint/base" in caught.value.remedy
    with pytest.raises(MissingArtifact, match="nowhen"):
        store.get("base@nowhen")


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../b", "/etc", "a/b/c", "名字", "a b", ".hidden", "a" * 101, "a\n", "base@../..",
             "base@", "checkpoint/base@a/b", "nokind/base", "base@.."]
)  # fmt: skip
def test_what_is_no_name_is_refused(store: ArtifactStore, name: str) -> None:
    make(store)
    with pytest.raises(RequestError):
        store.get(name)
    if "@" not in name:
        with pytest.raises(RequestError):
            store.begin("checkpoint", name, PRINT)


def test_lineage_goes_back_to_the_first_ancestors_once_each(store: ArtifactStore) -> None:
    tokenizer = make(store, "words", "tokenizer")
    shards = make(store, "corpus", "shards", parents=(tokenizer.reference,))
    base = make(store, "base", parents=(shards.reference, tokenizer.reference))
    found = [(depth, item.name) for depth, item in store.lineage(base)]
    assert found == [(0, "base"), (1, "corpus"), (2, "words")]


def test_a_parent_is_not_removed(store: ArtifactStore) -> None:
    tokenizer = make(store, "words", "tokenizer")
    base = make(store, "base", parents=(tokenizer.reference,))
    with pytest.raises(RequestError, match=rf"is a parent of {base.reference}"):
        store.remove("words")
    store.remove("base")
    store.remove(tokenizer.reference)
    assert list(store.list()) == []
    assert not in_store(tokenizer, "").exists()


def rewrite(artifact: Artifact, **changes: Any) -> None:
    file = in_store(artifact, "artifact.json")
    record = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}), encoding="utf-8")


@pytest.mark.parametrize("version", [0, 2, "1", "new"])
def test_an_unknown_format_is_refused_not_guessed(store: ArtifactStore, version: object) -> None:
    rewrite(make(store), format_version=version)
    with pytest.raises(LlmyardError, match="this llmyard reads 1") as caught:
        store.get("base")
    assert not isinstance(caught.value, CorruptArtifact)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format_version": 1}'])
def test_a_torn_mark_is_corrupt(store: ArtifactStore, content: bytes) -> None:
    artifact = make(store)
    in_store(artifact, "artifact.json").write_bytes(content)
    with pytest.raises(CorruptArtifact, match="not readable"):
        store.get("base")


def test_a_mark_without_a_format_is_corrupt(store: ArtifactStore) -> None:
    rewrite(make(store), format_version=None)
    with pytest.raises(CorruptArtifact):
        store.get("base")


def test_receipts_are_taken_as_given_and_what_they_do_not_name_is_removed(store: ArtifactStore) -> None:
    with store.begin("shards", "corpus", PRINT) as draft:
        draft.storage.write(f"{draft.folder}/train-0-f2.parquet", b"whole")
        draft.storage.write(f"{draft.folder}/train-0-f1.parquet", b"left by a dead run")
        target = draft.storage.local(draft.folder, "train-0-f2.parquet")
        receipt = FileEntry("train-0-f2.parquet", 5, sha256_of(target))
        artifact = draft.commit(config={}, parents=[], metrics={}, files=[receipt])
    assert artifact.files() == [receipt]
    assert {item.name for item in in_store(artifact, "").iterdir()} == {
        "train-0-f2.parquet", "artifact.json", artifact.files_list,
    }  # fmt: skip


def test_a_failed_making_leaves_nothing_that_counts_and_is_continued(store: ArtifactStore) -> None:
    draft = store.begin("checkpoint", "base", PRINT)
    draft.note(run="abc")
    with pytest.raises(ValueError, match="boom"), draft:
        raise ValueError("boom")
    assert list(store.list()) == []
    with store.begin("checkpoint", "base", PRINT) as again:
        assert again.continued
        assert again.version == draft.version
        assert again.recall() == {"run": "abc"}


@pytest.mark.parametrize("way", ["skipped", "made anew"])
def test_what_an_owner_left_that_died_after_its_mark_is_removed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    draft = store.begin("checkpoint", "base", PRINT)
    draft.storage.write(f"{draft.folder}/_making/progress", b"large")
    draft.storage.write(f"{draft.folder}/late-f1", b"of a dead owner")
    with monkeypatch.context() as killed:
        killed.setattr("llmyard.core.draft.tidy", lambda artifact, entries: None)
        killed.setattr("llmyard.core.lease.is_alive", lambda owner: False)
        artifact = draft.commit(config={}, parents=[], metrics={}, files=[])
        draft.lease._stop.set()
        if way == "skipped":
            store.settle(artifact)
        else:
            again = store.begin("checkpoint", "base", PRINT)
            assert again.version != artifact.version
            again.lease.release()
    assert {item.name for item in in_store(artifact, "").iterdir()} == {"artifact.json", artifact.files_list}
    assert list(store.storage.list("checkpoint/base/_making", recursive=True)) == []


def test_a_forced_making_that_died_is_not_ended_by_a_finished_one(store: ArtifactStore) -> None:
    artifact = make(store)
    with pytest.raises(ValueError, match="boom"), store.begin("checkpoint", "base", PRINT) as forced:
        raise ValueError("boom")
    store.settle(artifact)
    with store.begin("checkpoint", "base", PRINT) as again:
        assert again.version == forced.version


def test_another_fingerprint_is_not_in_the_way(store: ArtifactStore) -> None:
    with store.begin("checkpoint", "base", PRINT) as one, store.begin("checkpoint", "base", "e" * 64) as two:
        assert one.version != two.version
        assert not two.continued


def test_the_same_result_is_not_made_twice_at_once(store: ArtifactStore) -> None:
    with store.begin("checkpoint", "base", PRINT), pytest.raises(Busy, match="is making checkpoint/base"):
        store.begin("checkpoint", "base", PRINT)


def test_after_a_commit_the_next_making_is_a_new_version(store: ArtifactStore) -> None:
    first = make(store)
    second = make(store)
    assert first.version != second.version
    assert store.get(first.reference).is_complete()


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
