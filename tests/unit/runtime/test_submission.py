"""The client of a cluster's dashboard, against small servers that answer as dashboards and others do."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.runtime.submission import Dashboard, Failed, Unreachable, normalized, token, token_source
from llmyard.runtime.submission_logs import follow

Answer = tuple[int, Any]
VERSION, METADATA = "/api/version", "/api/v0/cluster_metadata"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("llmyard.runtime.submission_logs._PAUSES", (0.01,))


class Server:
    """Answers by path, and notes what it was asked."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers, self.asked = answers, list[tuple[str, str, bytes, str]]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append((self.command, self.path, body, self.headers.get("Authorization", "")))
                code, said = server.answers.get(self.path, (404, "Not Found"))
                data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(code)
                if 300 <= code < 400:
                    self.send_header("Location", str(said))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Answer]], Server]]:
    servers: list[Server] = []

    def start(answers: dict[str, Answer]) -> Server:
        servers.append(Server(answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_addresses_are_made_whole_or_refused() -> None:
    assert normalized("head") == "http://head:8265"
    assert normalized("head:1/") == "http://head:1"
    assert normalized("https://ray.example/a/") == "https://ray.example/a"
    assert normalized("http://[::1]:8265") == "http://[::1]:8265"
    for wrong in ("ray://head:10001", "http://me:hunter2@head", "http://", "head:port"):
        with pytest.raises(RequestError, match="not a dashboard's address") as refused:
            normalized(wrong)
        assert "hunter2" not in str(refused.value)


def test_the_token_comes_from_where_ray_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (token_source(), token()) == (None, "")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n", encoding="utf-8")
    assert (token_source(), token()) == ("~/.ray/auth_token", "home")
    (tmp_path / "file").write_text(" file ", encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert (token_source(), token()) == ("RAY_AUTH_TOKEN_PATH", "file")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert (token_source(), token()) == ("RAY_AUTH_TOKEN", "variable")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token() == ""
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RequestError, match="is empty"):
        token()
    (tmp_path / "file").unlink()
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        token()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "Unauthorized: Missing authentication token"), "asks for a token, and none was found here"),
        ((403, "Forbidden: no access to namespace team-a"), "no access to namespace team-a"),
        ((404, "<html>"), "is no dashboard of Ray: /api/jobs/ gives 404"),
        ((200, "<html>"), "is no dashboard of Ray: /api/jobs/ answers with something else"),
        ((503, "starting"), "is not there yet: 503"),
        ((500, "Traceback\nKeyError: it broke"), "failed at /api/jobs/: 500 KeyError: it broke"),
    ],
)
def test_refusals_say_what_to_do(serve: Any, answer: Answer, said: str) -> None:
    dashboard = Dashboard(serve({"/api/jobs/": answer}).url)
    with pytest.raises(LlmyardError, match=said) as refused:
        dashboard.jobs()
    assert refused.value.remedy
    assert refused.value.exit_code == (1 if answer[0] == 500 else 2)


def test_a_refused_token_is_named_by_its_source_and_never_shown(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    server = serve({"/api/jobs/": (403, "Forbidden: Invalid authentication token")})
    with pytest.raises(RequestError, match="refuses the token from RAY_AUTH_TOKEN") as refused:
        Dashboard(server.url).jobs()
    assert "hunter2" not in str(refused.value)
    assert server.asked[0][3] == "Bearer hunter2"


def test_the_token_does_not_follow_a_redirect(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    other = serve({"/login": (200, [])})
    with pytest.raises(RequestError, match="is no dashboard of Ray"):
        Dashboard(serve({"/api/jobs/": (302, f"{other.url}/login")}).url).jobs()
    assert other.asked == []


def test_nobody_at_the_address_or_somebody_else() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Unreachable, match="Connection refused"):
            Dashboard(address).jobs()
        listening.listen()

        def say_something_else() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"\x00\x00\x06\x04 no HTTP\r\n")
            connection.close()

        threading.Thread(target=say_something_else, daemon=True).start()
        with pytest.raises(RequestError, match="does not speak HTTP"):
            Dashboard(address).jobs()

        def say_nothing() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.close()

        threading.Thread(target=say_nothing, daemon=True).start()
        with pytest.raises(Unreachable, match="it closes the connection"):
            Dashboard(address).jobs()
    with pytest.raises(Unreachable, match="there is no such host"):
        Dashboard("nowhere.invalid").jobs()


@pytest.mark.parametrize(
    ("ray", "python", "said"),
    [
        ("2.9.3", "3.11.7", r"runs Ray 2\.9\.3, this llmyard needs 2\.60"),
        ("2.60.1", "3.10.4", r"runs Python 3\.10\.4, llmyard needs 3\.11"),
        ("2.60.0", "3.9.19", r"runs Python 3\.9\.19"),
    ],
)
def test_another_ray_or_python_is_refused(serve: Any, ray: str, python: str, said: str) -> None:
    server = serve({VERSION: (200, {"ray_version": ray}), METADATA: (200, {"data": {"pythonVersion": python}})})
    with pytest.raises(RequestError, match=said):
        Dashboard(server.url).check_versions()


@pytest.mark.parametrize("python", ["3.11.0", "3.13.2"])
def test_a_fitting_cluster_passes(serve: Any, python: str) -> None:
    answers = {VERSION: (200, {"ray_version": "2.60.9"}), METADATA: (200, {"data": {"pythonVersion": python}})}
    Dashboard(serve(answers).url).check_versions()


def test_an_id_that_is_taken_is_no_error_though_ray_says_500(serve: Any) -> None:
    taken = (500, "Traceback …\nRuntimeError: 500: ValueError: Job with submission_id x already exists. Please …")
    server = serve({"/api/jobs/": taken})
    assert Dashboard(server.url).submit("x", "true", {}, {}) is False
    server.answers["/api/jobs/"] = (200, {"submission_id": "x"})
    assert Dashboard(server.url).submit("x", "true", {}, {"a": "b"}) is True
    assert json.loads(server.asked[-1][2]) == {
        "submission_id": "x", "entrypoint": "true", "metadata": {"a": "b"}, "runtime_env": {},
    }  # fmt: skip
    server.answers["/api/jobs/"] = (500, "out of disk")
    with pytest.raises(Failed, match="out of disk"):
        Dashboard(server.url).submit("x", "true", {}, {})


def test_files_are_sent_once(serve: Any) -> None:
    server = serve({})
    dashboard = Dashboard(server.url)
    with pytest.raises(RequestError):  # it takes no PUT yet
        dashboard.upload({"a": b"1"})
    path = server.asked[0][1]
    server.asked.clear()
    server.answers[path] = (200, "")
    assert dashboard.upload({"a": b"1"}) == f"gcs://{path.rpartition('/')[2]}"
    assert [asked[0] for asked in server.asked] == ["GET"]


def row(name: str, status: str = "SUCCEEDED", start: int = 0) -> dict[str, Any]:
    return {"submission_id": name, "status": status, "type": "SUBMISSION", "start_time": start}


def test_a_job_is_found_by_the_beginning_of_its_id(serve: Any) -> None:
    there = [row("base", start=1), row("base-2", "RUNNING", 2), row("base-3", "FAILED", 3), row("other"), row("others")]
    driver = {"submission_id": None, "job_id": "01", "status": "RUNNING", "type": "DRIVER"}
    dashboard = Dashboard(serve({"/api/jobs/": (200, [*there, driver])}).url)
    assert [job.id for job in dashboard.jobs()][:3] == ["base-3", "base-2", "base"]
    assert dashboard.find("base").id == "base"
    assert dashboard.find("other").id == "other"
    assert dashboard.find("base-").id == "base-2"  # the one that runs
    for given, said in (("oth", "the beginning of several"), ("x", "is no job")):
        with pytest.raises(RequestError, match=said):
            dashboard.find(given)


def test_an_autoscaler_is_told_from_the_one_that_only_counts(serve: Any) -> None:
    def answers(types: dict[str, str] | None, kind: str) -> dict[str, Answer]:
        report = {"autoscalerReport": {"nodeTypeMapping": types}} if types is not None else None
        nodes = {"summary": [{"raylet": {"nodeTypeName": kind}}]}
        return {
            "/api/cluster_status": (200, {"data": {"clusterStatus": report}}),
            "/nodes?view=summary": (200, {"data": nodes}),
        }

    assert not Dashboard(serve(answers({"ab": "node_ab"}, "")).url).is_autoscaled()
    assert Dashboard(serve(answers({"ab": "ray.head.default"}, "")).url).is_autoscaled()
    assert Dashboard(serve(answers(None, "gpu-group")).url).is_autoscaled()
    assert not Dashboard(serve(answers(None, "")).url).is_autoscaled()


class Flaky:
    """A dashboard whose connection breaks as told: after how many characters, and whether as if all had been said."""

    def __init__(self, text: str, breaks: list[tuple[int, bool]], forgets: bool = False) -> None:
        self.text, self.breaks, self.forgets = text, breaks, forgets
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = aiohttp.web.Application()
        application.router.add_get("/api/jobs/x/logs/tail", self._tail)
        application.router.add_get("/api/jobs/x/logs", self._logs)
        application.router.add_get("/api/jobs/x", self._job)
        runner = aiohttp.web.AppRunner(application, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _tail(self, request: aiohttp.web.Request) -> Any:
        answer = aiohttp.web.WebSocketResponse()
        await answer.prepare(request)
        self.connections += 1
        most, is_clean = self.breaks.pop(0) if self.breaks else (len(self.text), True)
        for at in range(0, most, 7):
            await answer.send_str(self.text[at : min(at + 7, most)])
        if not is_clean:
            assert request.transport is not None
            request.transport.abort()
        return answer

    async def _job(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        if self.forgets:
            return aiohttp.web.Response(status=404, text="Job x does not exist")
        return aiohttp.web.json_response(row("x", "RUNNING" if self.breaks else "SUCCEEDED"))

    async def _logs(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"logs": self.text})


TEXT = "".join(f"line {number}: 第{number}行\n" for number in range(20))


@pytest.mark.parametrize("is_clean", [True, False])
def test_output_is_shown_once_through_lost_connections(is_clean: bool) -> None:
    server = Flaky(TEXT, [(50, is_clean), (20, is_clean), (0, is_clean), (130, is_clean)])
    shown: list[str] = []
    try:
        ended = follow(Dashboard(server.url), "x", shown.append)
    finally:
        server.close()
    assert "".join(shown) == TEXT
    assert ended.status == "SUCCEEDED"
    assert server.connections >= 4


def test_the_end_is_fetched_where_the_connection_ended_as_if_all_were_said() -> None:
    server = Flaky(TEXT, [])
    server.breaks = [(30, True)]
    shown: list[str] = []
    try:
        follow(Dashboard(server.url), "x", shown.append)
    finally:
        server.close()
    assert "".join(shown) == TEXT


def test_a_cluster_that_forgot_the_job_or_is_gone_is_said() -> None:
    server = Flaky(TEXT, [(10, False)] * 3, forgets=True)
    try:
        with pytest.raises(LlmyardError, match="does not know x any more: its head was started anew") as refused:
            follow(Dashboard(server.url), "x", lambda text: None)
    finally:
        server.close()
    assert refused.value.exit_code == 1
    with pytest.raises(LlmyardError, match="has not answered for"):
        follow(Dashboard(server.url), "x", lambda text: None, patience=0.05)
