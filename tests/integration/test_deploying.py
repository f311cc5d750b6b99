"""An endpoint on a real head with token auth: deployed, updated under load, still there when its driver has ended."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this one

from ray_head import Head, asked, free_ports, started_head, wait_until

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.storage import Storage
from llmyard.serving import keys

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head() as found:
        yield found


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def store(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    folder = tmp_path_factory.mktemp("deployed") / "store"
    shutil.copytree(tiny.store.storage.uri, folder)
    return ArtifactStore(Storage(str(folder)))


@pytest.fixture(autouse=True)
def _token(head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shell.json = shell.debug = False
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.chdir(tmp_path)


def another_version(store: ArtifactStore, name: str, config: bytes | None = None) -> Artifact:
    """Commits a copy of a checkpoint as a newer version of it."""
    old = store.get(name, "checkpoint")
    with store.begin("checkpoint", name, "again" if config is None else "broken") as draft:
        left_out = shutil.ignore_patterns("artifact.json", "files.parquet")
        shutil.copytree(old.local(), draft.uri, dirs_exist_ok=True, ignore=left_out)
        if config is not None:
            Path(draft.uri, "config.json").write_bytes(config)
        return draft.commit(config={}, parents=(), metrics={}, details=old.details)


def ask(url: str, path: str, key: str, body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=90) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def deploy(
    head: Head, store: ArtifactStore, capsys: pytest.CaptureFixture[str], expected: int = 0, *more: str, **job: Any
) -> dict[str, Any]:
    Path("deploy.yaml").write_text(yaml.safe_dump({"kind": "deploy", **job}), encoding="utf-8")
    capsys.readouterr()
    where = ["--address", head.url, "--storage", store.storage.uri, "--shared-paths"]
    code = main(["deploy", "deploy.yaml", *where, "--json", *more])
    shown = capsys.readouterr()
    assert code == expected, shown.out + shown.err
    found: dict[str, Any] = json.loads(shown.out.strip().splitlines()[-1])
    return found


class Asking:
    """Clients that ask all the time, and count what came of it."""

    def __init__(self, url: str, key: str) -> None:
        self.seen: Counter[str] = Counter()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(url, key)) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _ask_on(self, url: str, key: str) -> None:
        body = {"model": "base", "prompt": "One morning", "max_tokens": 4, "temperature": 0}
        while not self._ended.is_set():
            try:
                self.seen[str(ask(url, "/v1/completions", key, body)[0])] += 1
            except OSError as error:
                self.seen[repr(error)] += 1
            time.sleep(0.05)

    def end(self) -> Counter[str]:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return self.seen


@pytest.fixture(scope="module")
def key(store: ArtifactStore) -> str:
    found = keys.new_key()
    keys.keep(store.storage, found)
    return found


def answering(url: str, key: str) -> str:
    found: str = ask(url, "/v1/models/base", key)[1]["lineage"][0]["artifact"]
    return found


def replicas(port: int) -> set[int]:
    """Returns the replicas' processes: of all on this machine those that the HAProxy at the port is asked for."""
    (proxy, *_) = [each for each in psutil.process_iter() if each.name() == "haproxy" and hears(each, port)]
    family = proxy.parents()
    session = next(each for each in family if each.name() == "raylet")
    return {each.pid for each in session.children(recursive=True) if each.name().startswith("ray::ServeReplica")}


def hears(process: psutil.Process, port: int) -> bool:
    try:
        return any(each.laddr.port == port for each in process.net_connections("tcp") if each.status == "LISTEN")
    except psutil.Error:
        return False


def keepers(head: Head) -> int:
    """Returns how many actors hold packages of an endpoint's versions."""
    rows = asked(head, "/api/v0/actors?limit=1000")["data"]["result"]["result"]
    return sum(row["class_name"] == "Keeper" and row["state"] == "ALIVE" for row in rows)


def test_an_endpoint_is_updated_under_load_and_outlives_its_drivers(
    head: Head, store: ArtifactStore, port: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"models": ["base"], "port": port, "host": "127.0.0.1"}
    first, url = store.get("base", "checkpoint"), f"http://127.0.0.1:{port}"
    told = deploy(head, store, capsys, **job)  # with the code of this checkout, carried along
    assert told["endpoints"] == [{"name": "llmyard", "urls": [url], "models": [first.reference]}]
    assert not [each for each in asked(head, "/api/jobs/") if each["status"] in ("RUNNING", "PENDING")]
    assert ask(url, "/v1/models", "ly-wrong")[0] == 401
    assert answering(url, key) == first.reference
    assert len(replicas(port)) == 1
    assert keepers(head) == 1

    second = another_version(store, "base")
    asking = Asking(url, key)
    try:
        deploy(head, store, capsys, 0, "--code", "image", **job)
        assert answering(url, key) == second.reference
    finally:
        seen = asking.end()
    assert set(seen) == {"200"}, seen
    assert seen["200"] > 20
    assert keepers(head) == 0  # the newer version has no packages of its own


@pytest.mark.slow
def test_what_is_not_new_stays_and_what_does_not_load_does_not_take_its_place(
    head: Head, store: ArtifactStore, port: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"models": ["base"], "port": port, "host": "127.0.0.1"}
    url = f"http://127.0.0.1:{port}"
    deploy(head, store, capsys, 0, "--code", "image", **job)
    there, answered_by = replicas(port), answering(url, key)
    deploy(head, store, capsys, 0, "--code", "image", "--set", "scale.most=2", **job)
    assert replicas(port) == there

    refused = deploy(head, store, capsys, 2, "--code", "image", "--set", "endpoint=other", **job)
    assert "another endpoint of the cluster, llmyard, answers already" in refused["error"]

    another_version(store, "base", b"{}")
    asking = Asking(url, key)
    try:
        failed = deploy(head, store, capsys, 1, "--code", "image", "--set", "scale.tries=1", **job)
    finally:
        seen = asking.end()
    assert "did not start" in failed["error"]
    assert "is a model of type ''" in failed["error"]
    assert set(seen) == {"200"}, seen
    assert answering(url, key) == answered_by

    another_version(store, "base")
    deploy(head, store, capsys, **job)  # with the code of this checkout
    assert keepers(head) == 1
    assert main(["endpoints", "stop", "llmyard", "--address", head.url]) == 0
    wait_until(lambda: keepers(head) == 0, "its packages are kept for nobody")


def test_an_endpoint_is_listed_and_stopped(
    head: Head, store: ArtifactStore, port: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--address", head.url]
    deploy(head, store, capsys, 0, "--code", "image", models=["base"], port=port, host="127.0.0.1")
    url = f"http://127.0.0.1:{port}"

    def listed() -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["endpoints", "list", *where, "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["endpoints"]
        return found

    (found,) = listed()
    assert (found["name"], found["status"], found["urls"]) == ("llmyard", "RUNNING", [url])
    assert found["replicas"] == found["wanted"] == 1
    assert main(["endpoints", "stop", "llmyar", *where]) == 2
    assert "there is: llmyard" in capsys.readouterr().err
    assert ask(url, "/v1/models", key)[0] == 200

    shell.json = False
    assert main(["endpoints", "stop", "llmyard", *where]) == 0
    assert "llmyard has ended" in capsys.readouterr().out
    assert listed() == []
    with pytest.raises(OSError, match="refused"):
        ask(url, "/v1/models", key)
