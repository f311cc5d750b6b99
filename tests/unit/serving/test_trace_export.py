"""Where traces are sent: what the environment asks for, and that no answer waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from llmyard.core.errors import RequestError
from llmyard.serving.span_sending import Sending
from llmyard.serving.trace_export import exporters_named, mlflow_headers, traces_asked_for
from llmyard.serving.watching import METRICS


class Told:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}

    def count(self, name: str, amount: float, tags: Mapping[str, str]) -> None:
        assert set(tags) == set(METRICS[name].tags)
        key = (name, *tags.values())
        self.counts[key] = self.counts.get(key, 0) + amount

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None: ...

    def set(self, name: str, value: float, tags: Mapping[str, str]) -> None: ...


class Stuck(SpanExporter):
    """An exporter that sends nothing before it may."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.may, self.result, self.sent = threading.Event(), result, 0

    def export(self, spans: Any) -> SpanExportResult:
        assert self.may.wait(30)
        self.sent += len(spans)
        return self.result


def ended(provider: TracerProvider, count: int) -> None:
    for _ in range(count):
        provider.get_tracer("x").start_span("x").end()


def test_spans_that_find_no_room_are_dropped_and_counted_and_nobody_waits() -> None:
    stuck, meter, provider = Stuck(), Told(), TracerProvider(shutdown_on_exit=False)
    sending = Sending(stuck, meter, 10)
    provider.add_span_processor(sending)
    ended(provider, 25)  # would hang here if it waited
    assert meter.counts == {("llmyard_spans_dropped_total", "queue_full"): 15}
    stuck.may.set()
    assert sending.force_flush()
    assert stuck.sent == 10
    ended(provider, 10)  # there is room again
    provider.shutdown()
    assert stuck.sent == 20
    assert meter.counts == {("llmyard_spans_dropped_total", "queue_full"): 15}


@pytest.mark.parametrize("fails", [True, False])
def test_spans_that_are_not_taken_are_counted(fails: bool) -> None:
    class Failing(Stuck):
        def export(self, spans: Any) -> SpanExportResult:
            if fails:
                raise OSError("no route")
            return super().export(spans)

    failing, meter, provider = Failing(SpanExportResult.FAILURE), Told(), TracerProvider(shutdown_on_exit=False)
    failing.may.set()
    provider.add_span_processor(Sending(failing, meter, 10))
    ended(provider, 4)
    provider.shutdown()
    assert meter.counts == {("llmyard_spans_dropped_total", "not_taken"): 4}


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "MLFLOW_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_TRACES_EXPORTER": ""}, []),
    ],
)
def test_the_environment_names_the_exporters(
    unset: pytest.MonkeyPatch, variables: dict[str, str], names: list[str]
) -> None:
    for name, value in variables.items():
        unset.setenv(name, value)
    assert exporters_named() == names
    if not names:
        assert traces_asked_for(Told()) is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "the exporter zipkin is not installed"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "'smoke'.*\n.*grpc"),
        ({"OTEL_TRACES_EXPORTER": "mlflow"}, "MLFLOW_TRACKING_URI is ''"),
        ({"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": "sqlite:///x"}, "address of a tracking server"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "MAX_QUEUE_SIZE is '-1'"),
    ],
)
def test_what_cannot_be_sent_anywhere_is_said_at_the_start(
    unset: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        unset.setenv(name, value)
    with pytest.raises(RequestError, match=said):
        traces_asked_for(Told())


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, ""),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, ""),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p%é", "MLFLOW_TRACKING_TOKEN": "t"}, ""),
        ({}, "[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = p\n"),
        ({"MLFLOW_TRACKING_USERNAME": "v"}, "[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = p\n"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "[other]\nx = y\n"),
    ],
)
def test_an_mlflow_server_is_told_what_mlflow_itself_would_tell_it(
    unset: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], kept: str
) -> None:
    from mlflow.tracing.utils.otlp import build_otlp_headers

    unset.setenv("HOME", str(tmp_path))
    if kept:
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow" / "credentials").write_text(kept, encoding="utf-8")
    for name, value in {**variables, "MLFLOW_EXPERIMENT_ID": "7"}.items():
        unset.setenv(name, value)
    assert mlflow_headers() == build_otlp_headers("7")


def test_without_traces_nothing_of_opentelemetry_is_imported_by_the_application() -> None:
    code = (
        "import sys, llmyard.serving.api, llmyard.serving.trace_export as t\n"
        "assert t.traces_asked_for(None) is None\n"
        "print({'llmyard.serving.tracing', 'llmyard.serving.span_sending'} & sys.modules.keys())"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == "set()"
