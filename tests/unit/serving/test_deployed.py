"""What a dashboard tells of Serve is read, and only an endpoint that is alone is ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmyard.core.errors import RequestError
from llmyard.runtime.submission import Dashboard
from llmyard.serving.deployed import end, running


class Cluster:
    """A dashboard whose Serve runs `applications` until it is told to end."""

    def __init__(self) -> None:
        self.told: Any = {
            "http_options": {"host": "0.0.0.0", "port": 8000},
            "proxies": {"a": {"node_ip": "198.18.0.1", "status": "HEALTHY"},
                        "b": {"node_ip": "198.18.0.2", "status": "UNHEALTHY"}},
            "applications": {},
        }  # fmt: skip
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(cluster.told)
                if cluster.ending and cluster.told["applications"]:
                    left = next(iter(cluster.told["applications"].values()))["deployments"]["Replica"]["replicas"]
                    left.pop()
                    if not left:
                        cluster.told["applications"] = {}
                elif cluster.ending:
                    cluster.told["proxies"] = {}

            def do_DELETE(self) -> None:
                cluster.ending = True
                self.answer({})

            def answer(self, what: Any) -> None:
                data = json.dumps(what).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.ending = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.dashboard = Dashboard(f"http://127.0.0.1:{self.server.server_port}")

    def runs(self, name: str, states: tuple[str, ...] = ("RUNNING", "STARTING")) -> None:
        self.told["applications"][name] = {
            "status": "RUNNING", "message": "", "last_deployed_time_s": 1.8e9,
            "deployments": {"Replica": {"target_num_replicas": 2, "replicas": [{"state": each} for each in states]}},
        }  # fmt: skip


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = Cluster()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_what_answers_is_listed_with_its_nodes_and_replicas(cluster: Cluster) -> None:
    assert running(cluster.dashboard) == []
    cluster.runs("chat")
    (found,) = running(cluster.dashboard)
    assert (found.name, found.status, found.replicas, found.wanted) == ("chat", "RUNNING", 1, 2)
    assert found.urls == ("http://198.18.0.1:8000",)
    cluster.told["http_options"]["host"] = "127.0.0.1"
    assert running(cluster.dashboard)[0].urls == ("http://127.0.0.1:8000",)


def test_an_endpoint_is_waited_for_until_it_is_gone(cluster: Cluster) -> None:
    cluster.runs("chat", ("RUNNING", "RUNNING"))
    seen: list[int] = []
    end(cluster.dashboard, "chat", seen.append)
    assert seen == [2, 1, 0]
    assert running(cluster.dashboard) == []


def test_nothing_is_ended_but_what_was_named(cluster: Cluster) -> None:
    with pytest.raises(RequestError, match="no endpoint 'chat'") as refused:
        end(cluster.dashboard, "chat", lambda _: None)
    assert refused.value.remedy == "nothing is deployed there"
    cluster.runs("chat")
    cluster.runs("other")
    with pytest.raises(RequestError, match="runs other too, which would end with chat"):
        end(cluster.dashboard, "chat", lambda _: None)
    assert not cluster.ending


def test_another_answer_is_no_traceback(cluster: Cluster) -> None:
    cluster.told = {"applications": {"chat": {}}}
    with pytest.raises(RequestError, match="does not understand: KeyError"):
        running(cluster.dashboard)
