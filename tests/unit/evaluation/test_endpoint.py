"""Asking a model behind a URL: over real HTTP on the loopback, with an endpoint that is busy, broken or not ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.evaluation import endpoint
from llmyard.evaluation.endpoint import EndpointFailed, LiveModel, Refused

Reply = tuple[int, Any]


class Server:
    """Answers with what a function says of (path, body); counts requests."""

    def __init__(self, reply: Callable[[str, Any], Reply]) -> None:
        self.seen: list[tuple[str, Any, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.seen.append((self.path, body, self.headers.get("Authorization") or ""))
                status, answer = reply(self.path, body)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", str(answer))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, Any], Reply]], Server]]:
    servers: list[Server] = []

    def start(reply: Callable[[str, Any], Reply]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PATIENCE", (0.01, 0.01))


def echo(path: str, body: Any) -> Reply:
    if path == "/v1/models":
        return 200, {"data": [{"id": "m", "artifact": "checkpoint/m@1", "task": "translation"}]}
    if path == "/v1/predict":
        return 200, {"answers": [record["source"] for record in body["records"]]}
    return 200, {"choices": [{"message": {"content": body["messages"][0]["content"][::-1]}}]}


def test_a_model_is_told_from_the_next_by_what_lasts(serve: Any) -> None:
    about = {"id": "m", "artifact": "checkpoint/m@1", "created": 1}
    model = LiveModel(serve(lambda path, body: (200, {"data": [about]})).url, "m")
    first = model.identity()
    about["created"] = 2
    assert model.identity() == first
    about["artifact"] = "checkpoint/m@2"
    assert model.identity() != first


def test_answers_come_in_the_order_of_the_records(serve: Any) -> None:
    server = serve(echo)
    model = LiveModel(server.url + "/", "m", "ly-secret")
    assert model.about()["task"] == "translation"
    assert model.predict([{"source": f"句{at}"} for at in range(21)]) == [f"句{at}" for at in range(21)]
    assert model.chat(["ab", "中文"], 5) == ["ba", "文中"]
    assert {key for *_, key in server.seen} == {"Bearer ly-secret"}
    assert [len(body["records"]) for path, body, _ in server.seen if path == "/v1/predict"].count(8) == 2


def test_a_busy_endpoint_is_asked_again(serve: Any) -> None:
    answers = iter([(429, {}), (503, {}), (200, {"answers": ["好"]})])
    server = serve(lambda path, body: next(answers))
    assert LiveModel(server.url, "m").predict([{"source": "x"}]) == ["好"]
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        ((503, {"error": {"message": "full"}}), EndpointFailed, "busy .503.: full"),
        ((401, {"error": {"message": "no key"}}), RequestError, "refuses the key: no key"),
        ((404, {"error": {"message": "gone"}}), EndpointFailed, "answered 404: gone"),
        ((500, b"<html>"), EndpointFailed, "answered 500: <html>"),
        ((200, b"<html>"), EndpointFailed, "does not answer"),
        ((200, {"answers": []}), EndpointFailed, "0 answers to 1 records"),
        ((200, []), EndpointFailed, "no list 'answers'"),
    ],
)
def test_what_is_no_answer_is_said(serve: Any, reply: Reply, kind: type[LlmyardError], said: str) -> None:
    server = serve(lambda path, body: reply)
    with pytest.raises(kind, match=said):
        LiveModel(server.url, "m").predict([{"source": "x"}])


def test_what_is_refused_alone_has_no_answer(serve: Any) -> None:
    def reply(path: str, body: Any) -> Reply:
        asked = [each["content"] for each in body["messages"]] if "messages" in body else []
        asked += [record["source"] for record in body.get("records", ())]
        if any(len(text) > 3 for text in asked):
            return 400, {"error": {"message": "too long"}}
        return echo(path, body)

    server = serve(reply)
    sources = ["a", "bb", "cccc", "dd", "eeeee", "f", "g", "h", "i", "j", "kkkk"]
    model = LiveModel(server.url, "m")
    said = model.predict([{"source": source} for source in sources])
    assert [each for each in said if not isinstance(each, Refused)] == [each for each in sources if len(each) < 4]
    assert [isinstance(each, Refused) for each in said] == [len(each) > 3 for each in sources]
    first, second = model.chat(["ab", "abcd"], 5)
    assert first == "ba"
    assert isinstance(second, Refused)
    assert "too long" in second.what


def test_a_redirect_gets_no_key(serve: Any) -> None:
    other = serve(echo)

    def away(path: str, body: Any) -> Reply:
        return 302, other.url + path

    server = serve(away)
    with pytest.raises(EndpointFailed, match="302"):
        LiveModel(server.url, "m", "ly-secret").about()
    assert not other.seen
    assert "ly-secret" not in repr(LiveModel(server.url, "m", "ly-secret"))
    with pytest.raises(RequestError, match="no password"):
        LiveModel("http://user:word@127.0.0.1", "m").about()


def test_an_unknown_model_a_dead_address_and_none(serve: Any) -> None:
    server = serve(echo)
    with pytest.raises(RequestError, match="no model 'n'"):
        LiveModel(server.url, "n").about()
    with pytest.raises(EndpointFailed, match="does not answer"):
        LiveModel("http://127.0.0.1:9", "m").about()
    with pytest.raises(RequestError, match="no address of an endpoint"):
        LiveModel("file:///etc/passwd", "m").about()
