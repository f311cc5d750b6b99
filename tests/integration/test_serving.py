"""An endpoint on a private Ray: every route over a real socket, on this machine only, and nothing left afterwards."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import psutil
import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.serving.config import Endpoint, Limits
from llmyard.serving.endpoint import require_free, serving
from llmyard.serving.keys import StoredKey, hash_of
from llmyard.serving.replica import Opening

pytestmark = pytest.mark.integration

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opening(models: list[Any], config: Endpoint) -> Opening:
    known = [StoredKey(hash_of("ly-right"))]
    return Opening(tuple(models), tuple(model.name for model in models), lambda: known, config.limits)


def ask(url: str, body: Any = None, key: str = "ly-right") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def gone(seconds: float = 20) -> bool:
    """Whether the processes of Serve's actors below this one end, which Ray kills without waiting."""
    deadline, names = time.monotonic() + seconds, ("ray::Serve", "ray::Proxy")
    while time.monotonic() < deadline:
        below = [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
        if not any(each.name().startswith(names) for each in below):
            return True
        time.sleep(0.1)
    return False


def listening(port: int) -> set[str]:
    """The addresses at which something below this process listens at a port."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, FileNotFoundError):  # it ends while it is looked at
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    found.add(connection.laddr.ip)
    return found


@pytest.mark.usefixtures("shared_ray")
def test_an_endpoint_from_checkpoints(tiny: Any, capfd: pytest.CaptureFixture[str]) -> None:
    port, models = free_port(), [tiny.store.get(name, "checkpoint") for name in ("triples", "translator", "base")]
    config = Endpoint(models=tuple(model.reference for model in models), port=port, limits=Limits(max_new_tokens=100))
    with serving(config, opening(models, config)) as url:
        assert url == f"http://127.0.0.1:{port}"
        assert listening(port) == {"127.0.0.1"}
        with pytest.raises(RequestError, match="cannot listen"):
            require_free("127.0.0.1", port)
        with pytest.raises(RequestError, match="cannot listen"), serving(config, opening(models, config)):
            pass

        assert ask(url + "/")[1].startswith("<!doctype html>")
        assert ask(url + "/health", key="")[0] == 200
        assert ask(url + "/v1/models", key="ly-wrong")[0] == 401
        listed = json.loads(ask(url + "/v1/models")[1])["data"]
        assert [each["artifact"] for each in listed] == [model.reference for model in models]
        status, said = ask(url + "/v1/translate", {"text": CHINESE, "target_language": "en"})
        assert (status, json.loads(said)["translation"]) == (200, ENGLISH)
        found = json.loads(ask(url + "/v1/extract", {"text": "马洛住在科拉镇。"})[1])
        (triple,) = found["triples"]
        assert (triple["subject"], triple["relation"], triple["object"]) == ("马洛", "lives_in", "科拉镇")
        chat = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "stream": True}
        status, said = ask(url + "/v1/chat/completions", chat)
        assert status == 200
        assert said.endswith("data: [DONE]\n\n")
        chunks = [json.loads(event[6:]) for event in said.split("\n\n")[:-2]]
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "，马洛去了科拉镇。"
        assert ask(url + "/v1/translate", {"text": "x"})[0] == 400
        assert ask(url + "/v1/extract", {"text": "x" * 2_000_000})[0] == 413

        answers: list[tuple[int, str]] = []
        request = {"text": ENGLISH, "target_language": "zh"}
        callers = [
            threading.Thread(target=lambda: answers.append(ask(url + "/v1/translate", request))) for _ in range(20)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert {json.loads(said)["translation"] for _, said in answers} == {CHINESE}
        assert len(answers) == 20

        left = {"model": "base", "messages": [{"role": "user", "content": "?"}], "stream": True, "temperature": 5}
        with socket.create_connection(("127.0.0.1", port)) as leaving:  # a reader that goes away
            data = json.dumps(left).encode()
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ly-right\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            leaving.sendall(head.encode() + data)
            leaving.recv(10)
        assert ask(url + "/v1/translate", request)[0] == 200

    assert gone()
    assert listening(port) == set()
    require_free("127.0.0.1", port)
    said = "".join(capfd.readouterr())
    sys.stderr.write(said)  # shown if the test fails
    assert "Traceback" not in said
    assert "failed" not in said
    assert "graceful" not in said


@pytest.mark.usefixtures("shared_ray")
def test_a_checkpoint_that_does_not_load_leaves_nothing_behind(tiny: Any, tmp_path: Any) -> None:
    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage

    store = ArtifactStore(Storage(str(tmp_path)))
    with store.begin("checkpoint", "broken", "broken") as draft:
        store.storage.write(f"{draft.folder}/config.json", b"{}")
        tiny.tokenizer.save(store.storage.local(draft.folder, "tokenizer.json"))
        artifact = draft.commit(config={}, parents=(), metrics={})
    port = free_port()
    with (
        pytest.raises(LlmyardError, match=r"did not start: .* is a model of type ''"),
        serving(config := Endpoint(models=("x",), port=port), opening([artifact], config)),
    ):
        pass
    assert gone()
    require_free("127.0.0.1", port)
