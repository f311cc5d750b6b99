"""What Ray Serve builds from a config file, without a Ray that runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import MissingArtifact, RequestError
from llmyard.core.storage import Storage
from llmyard.serving.application import HubModel, Served, build, find, known_keys
from llmyard.serving.config import Limits
from llmyard.serving.keys import StoredKey
from llmyard.serving.replica import Opening, Replica

KEY = "ly-secret"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def served(store: Any, hashes: Path, *models: str, **more: Any) -> dict[str, Any]:
    return {"models": list(models), "storage": store.storage.uri, "key_hash_files": [str(hashes)], **more}


def client_of(models: Any) -> TestClient:
    opening = Opening(tuple(models), ("named",), lambda: [StoredKey(HASH)], Limits(max_new_tokens=5))
    return TestClient(Replica(opening).__serve_build_asgi_app__())


@pytest.fixture
def hashes(tmp_path: Path) -> Path:
    file = tmp_path / "hashes"
    file.write_text(f"# of the tests\n\n{HASH}  # one\n", encoding="utf-8")
    return file


def test_serve_turns_the_args_of_its_config_into_our_model(tiny: Any, hashes: Path) -> None:
    from ray.serve import Application
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    assert inspect.signature(build).parameters["args"].annotation is Served  # a string would not be validated
    assert isinstance(call(build, served(tiny.store, hashes, "base")), Application)
    with pytest.raises(ValidationError, match="storrage"):
        call(build, {**served(tiny.store, hashes, "base"), "storrage": "/x"})


def test_the_deployment_has_the_options_that_a_config_may_override(tiny: Any, hashes: Path) -> None:
    deployment = build(Served.model_validate(served(tiny.store, hashes, "base")))._bound_deployment
    assert deployment.name == "llmyard"
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (64, 512)
    assert deployment.ray_actor_options == {"num_cpus": 1}


def test_a_replica_answers_with_the_models_and_asks_for_a_key(tiny: Any) -> None:
    client = client_of(find(("base",), tiny.store))
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").status_code == 401
    told = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert [model["id"] for model in told["data"]] == ["base"]


def test_names_are_pinned_to_versions(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmyard.runtime.registry.resolve", lambda name, storage: "checkpoint/translator")
    base, translator = find(("checkpoint/base", "models:/zh-en@champion"), tiny.store)
    assert base.reference.startswith("checkpoint/base@2")
    assert translator.reference.startswith("checkpoint/translator@2")
    with pytest.raises(RequestError, match="again"):
        find(("translator", "models:/zh-en@champion"), tiny.store)
    with pytest.raises(MissingArtifact, match="no artifact checkpoint 'nothing'"):
        find(("nothing",), tiny.store)


def test_what_does_not_answer_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("report", "figures", "1") as draft:
        draft.commit(config={}, parents=(), metrics={})
    with pytest.raises(RequestError, match="is a report, which does not answer"):
        find(("report/figures",), store)


def test_a_model_of_the_hub_is_pinned_and_loaded_from_what_was_fetched(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snapshot"
    shutil.copytree(tiny.folders["translator"], folder)
    record = {"details": {"task_config": {"kind": "translation"}}}
    (folder / "artifact.json").write_text(json.dumps(record), encoding="utf-8")
    asked: dict[str, Any] = {}

    def snapshot(model: str, **options: Any) -> str:
        asked.update(model=model, **options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (found,) = find((f"hub:org/zh-en@{COMMIT}",), tiny.store)
    assert found == HubModel("org/zh-en", COMMIT)
    client = client_of([found])
    told = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [(model["id"], model["task"]) for model in told] == [("hub-org-zh-en", "translation")]
    assert (asked["model"], asked["revision"]) == ("org/zh-en", COMMIT)
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow_patterns"])


def test_a_revision_becomes_the_commit_that_it_stands_for(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def model_info(self, model: str, revision: str) -> Any:
            assert (model, revision) == ("org/zh-en", "v1")
            return type("Info", (), {"sha": COMMIT})()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    (found,) = find(("hub:org/zh-en@v1",), tiny.store)
    assert found.reference == f"checkpoint/hub-org-zh-en@{COMMIT}"
    with pytest.raises(RequestError, match="name the revision"):
        find(("hub:org/zh-en",), tiny.store)


def test_a_hub_that_does_not_answer_is_told(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> str:
        raise OSError("no route\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(RequestError, match=r"cannot get org/m@0123\w+: no route\n"):
        HubModel("org/m", COMMIT).fetched()


def test_hashes_come_from_files_and_variables(hashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "f" * 64
    monkeypatch.setenv("KEYS", f"{other}\n{HASH}")
    args = Served(models=("x",), key_hash_files=(str(hashes),), key_hash_variables=("KEYS",))
    assert [key.sha256 for key in known_keys(args)] == [HASH, other]


@pytest.mark.parametrize(
    ("text", "said"), [("# none\n", "at least one API key"), ("ly-a-key-itself\n", r"hashes:1 is no SHA-256")]
)
def test_what_is_no_hash_is_refused_and_never_shown(text: str, said: str, hashes: Path) -> None:
    hashes.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=said) as refused:
        known_keys(Served(models=("x",), key_hash_files=(str(hashes),)))
    assert "ly-a-key-itself" not in str(refused.value)


def test_an_endpoint_without_keys_is_refused(hashes: Path) -> None:
    with pytest.raises(RequestError, match="name nothing"):
        known_keys(Served(models=("x",)))
    with pytest.raises(RequestError, match="cannot read"):
        known_keys(Served(models=("x",), key_hash_files=(f"{hashes}-gone",)))
    with pytest.raises(RequestError, match="LLMYARD_NOT_SET is not set"):
        known_keys(Served(models=("x",), key_hash_variables=("LLMYARD_NOT_SET",)))
