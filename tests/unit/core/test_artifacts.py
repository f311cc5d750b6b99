"""The artifact store: nothing exists without its mark, nothing altered is read; owners are in `test_ownership`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import Artifact, ArtifactStore, Draft, FileEntry, sha256_of
from llmyard.core.errors import Busy, CorruptArtifact, LlmyardError, MissingArtifact, RequestError
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
