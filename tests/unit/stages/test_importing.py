"""What is taken into the store: copies that are artifacts of their own, with what they are good for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.core.storage import Storage
from llmyard.stages.importing import take_in


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def test_an_artifacts_folder_becomes_an_artifact_of_its_own(store: ArtifactStore, tiny: Any) -> None:
    original = tiny.store.get("translator", "checkpoint")
    (Path(original.uri) / "_making").mkdir(exist_ok=True)
    (Path(original.uri) / "_making" / "notes.json").write_text("{}", encoding="utf-8")
    copy = take_in(store, "checkpoint", Path(original.uri), "copy")
    assert copy.reference.startswith("checkpoint/copy@")
    names = {path.relative_to(copy.local()).as_posix() for path in copy.local().rglob("*") if path.is_file()}
    assert names == {*(entry.path for entry in copy.files()), "artifact.json", copy.files_list}
    assert {entry.path for entry in copy.files()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert copy.details["task_config"] == original.details["task_config"]  # it still translates
    assert copy.details["can"] == ["serve", "ask", "init"]
    assert [item.reference for item in store.list("checkpoint")] == [copy.reference]
    assert store.remove("checkpoint/copy").reference == copy.reference
    assert original.is_complete()


def test_within_one_store_the_original_outlives_its_copy(store: ArtifactStore, tiny: Any) -> None:
    first = take_in(store, "checkpoint", tiny.folders["base"], "first")
    copy = take_in(store, "checkpoint", Path(first.uri), "copy")
    assert copy.reference != first.reference
    store.remove("checkpoint/copy")
    assert store.get("checkpoint/first").local()


def test_a_copied_folder_with_anothers_record_is_corrupt_and_removes_nothing(store: ArtifactStore, tiny: Any) -> None:
    first = take_in(store, "checkpoint", tiny.folders["base"], "first")
    ghost = Path(store.storage.uri, "checkpoint", "ghost", first.version)
    shutil.copytree(first.uri, ghost)
    with pytest.raises(CorruptArtifact, match=f"is that of {first.reference}"):
        store.get("ghost")
    with pytest.raises(CorruptArtifact):
        store.remove("ghost")
    assert store.get("checkpoint/first").local()


def test_a_checkpoints_tokenizer_is_its_parent_and_taken_in_once(store: ArtifactStore, tiny: Any) -> None:
    base = take_in(store, "checkpoint", tiny.folders["base"], "base")
    triples = take_in(store, "checkpoint", tiny.folders["triples"], "triples")
    (tokenizer,) = store.list("tokenizer")
    assert base.parents == triples.parents == (tokenizer.reference,)
    assert base.details["tokenizer_sha256"] == tokenizer.details["tokenizer_sha256"]
    assert base.details["task"] == "causal_lm"
    assert "artifact.json" in triples.details["cannot"]["serve"]  # the plain folder does not say what it was tuned for


def test_what_it_cannot_be_used_for_is_said_at_import(store: ArtifactStore, tiny: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    from llmyard.tokens.tokenizer import CONTROL
    from llmyard.tokens.tokenizer import Tokenizer as Ours

    folder = tmp_path / "gpt2"
    shutil.copytree(tiny.folders["base"], folder)
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    plain = take_in(store, "checkpoint", folder, "plain")
    assert plain.details["can"] == ["init"]
    assert "lacks the control tokens" in plain.details["cannot"]["ask"]
    (tokenizer,) = plain.parents  # with which data can be prepared: the control tokens stand behind what it had
    usable = Ours.load(store.get(tokenizer).local("tokenizer.json"))
    assert [usable.control(token) for token in CONTROL] == list(range(2, 10))
    assert usable.encode("ab") == [0, 1]
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    with pytest.raises(RequestError, match="holds no tokens"):
        take_in(store, "checkpoint", folder, "empty")
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in take_in(store, "checkpoint", folder, "bare").details["cannot"]["init"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"[", "is not JSON"),
        ("config.json", b"[]", "holds no JSON object"),
        ("config.json", b"{}", "does not say `model_type`"),
        ("config.json", b'{"model_type": "nosuch"}', "model of type 'nosuch'"),
        ("tokenizer.json", b"{", "is no tokenizer"),
        ("model.safetensors", b"torn", "does not load"),
    ],
)
def test_broken_files_are_a_wrong_request(
    store: ArtifactStore, tiny: Any, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folders["base"], folder)
    (folder / name).write_bytes(content)
    with pytest.raises(RequestError, match=said) as caught:
        take_in(store, "checkpoint", folder, "m")
    assert caught.value.remedy
    assert list(store.list()) == []


def test_weights_that_are_missing_are_said_at_import(store: ArtifactStore, tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folders["base"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 3}), encoding="utf-8")
    with pytest.raises(RequestError, match="lacks weights"):
        take_in(store, "checkpoint", folder, "m")


def test_files_are_copied_a_piece_at_a_time(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"{}\n" * 3_000_000)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read whole"))
    assert take_in(store, "records", rows, "rows").details == {"records": 3_000_000}
