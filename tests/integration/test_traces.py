"""An endpoint that is watched: its traces arrive at a collector and at an MLflow server, its metrics at Prometheus."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits, Scale
from llmyard.serving.grafana import dashboard
from llmyard.serving.in_process import post
from llmyard.serving.keys import KeyRing, StoredKey, hash_of
from llmyard.serving.replica import APPLICATION, Opening, deployment
from llmyard.serving.trace_export import traces_asked_for
from llmyard.serving.watching import METRICS, Unwatched

pytestmark = pytest.mark.integration

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CHAT = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60}
NOT_HERE = "opentelemetry-exporter-otlp-proto-http is not installed: pip install 'llmyard[traces]'"


@pytest.fixture(autouse=True)
def exporter() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason=NOT_HERE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, as OpenTelemetry's collector does, and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.bodies: list[bytes] = []


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.services.add(named["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        yield collector, f"http://127.0.0.1:{collector.server_address[1]}"
        collector.shutdown()
        thread.join()


def until(found: Any, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return result


def ask(url: str, body: Any, **headers: str) -> Any:
    sent = {"Authorization": "Bearer ly-right", "Content-Type": "application/json", **headers}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), sent), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.usefixtures("shared_ray")
def test_an_endpoint_on_ray_is_seen_by_a_collector_and_by_prometheus(tiny: Any) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    port = free_port()
    model = tiny.store.get("base", "checkpoint")
    opening = Opening((model,), ("base",), lambda: [StoredKey(hash_of("ly-right"))], Limits())
    with collecting() as (collector, address):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        try:
            quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
            application = deployment(opening, Scale(), runtime_env={"env_vars": variables})
            serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            ask(url, CHAT, traceparent=f"00-{TRACE}-{PARENT}-01")
            _check_metrics(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics")
        finally:
            serve.shutdown()  # a replica that goes sends what it has
        until(lambda: len(collector.spans) >= 6, 30, "no spans arrive")
    assert collector.services == {"llmyard"}
    named = {span.name: span for span in collector.spans}
    assert set(named) == {"POST /v1/chat/completions", "chat base", "admission", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert named["POST /v1/chat/completions"].parent_span_id.hex() == PARENT
    assert named["chat base"].parent_span_id == named["POST /v1/chat/completions"].span_id
    assert not any("有一天".encode() in body for body in collector.bodies)


def _check_metrics(address: str) -> None:
    """What the dashboard asks for is what the node shows to Prometheus; drops are shown when there are some."""
    targets = [target for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    asked = {name for target in targets for name in re.findall(r"\bray_(?!io_)\w+", target["expr"])}
    asked.remove("ray_llmyard_spans_dropped_total")
    assert len(asked) > len(METRICS)

    def shown() -> set[str]:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return {re.split(r"[{ ]", line)[0] for line in answer.read().decode().splitlines()}

    deadline = time.monotonic() + 40  # Ray's processes report every 10 s
    while (missing := asked - shown()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert missing == set()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder)]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "OTEL_"))}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", *where, *store]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    def is_up() -> bool:
        assert process.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        until(is_up, 120, "MLflow's server does not come up")
        yield address
    finally:
        os.killpg(process.pid, 15)  # its workers too; the group is its own
        process.wait(30)


@pytest.mark.parametrize("texts", ["", "true"], ids=["lengths", "texts"])
def test_requests_are_traces_of_mlflow(
    tiny: Any, server: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.create_experiment(f"endpoint{texts}")
    for name, value in {
        "OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_ID": experiment,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": texts,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    traces = traces_asked_for(Unwatched())
    assert traces is not None
    model = Model.load(tiny.store.get("base", "checkpoint"))
    api = build_api([model], KeyRing.of([hash_of("ly-right")]), Limits(), traces=traces)
    status, said = asyncio.run(post(api, "/v1/chat/completions", CHAT, "ly-right"))
    assert status == 200
    traces.close(30)
    (trace,) = until(lambda: client.search_traces(locations=[experiment]), 30, "MLflow has no trace")
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"POST /v1/chat/completions", "chat base", "admission", "queue", "prefill", "decode"}
    answer = spans["chat base"]
    assert answer.span_type == "CHAT_MODEL"
    assert trace.info.token_usage["input_tokens"] == said["usage"]["prompt_tokens"]
    assert trace.info.token_usage["output_tokens"] == said["usage"]["completion_tokens"]
    told = json.dumps(trace.to_dict(), ensure_ascii=False)
    for text in ("有一天", said["choices"][0]["message"]["content"]):
        assert (text in told) == bool(texts)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address
