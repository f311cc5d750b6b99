"""Where traces go, by the variables that OpenTelemetry and MLflow have for it. Nothing of OpenTelemetry is imported
before they are switched on.

``OTEL_TRACES_EXPORTER`` names exporters: ``otlp``, which is meant, too, where only its address is given; ``console``;
``mlflow``, the server at ``MLFLOW_TRACKING_URI``; or another that is installed.
"""

from __future__ import annotations

import base64
import os
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmyard.core.errors import RequestError
from llmyard.serving.watching import Meter

if TYPE_CHECKING:
    from llmyard.serving.tracing import Traces

EXPORTERS = "OTEL_TRACES_EXPORTER"
ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
TEXTS = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
WAITING = 2048  # spans, as OpenTelemetry has it


def traces_asked_for(meter: Meter) -> Traces | None:
    """Returns what keeps traces, as the environment asks for it; None where it does not.

    ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` have how many are kept, ``OTEL_BSP_…`` how they are sent,
    and ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` whether they tell what was asked and answered.

    Args:
        meter: Counts the spans that are dropped.

    Raises:
        RequestError: There is no exporter of a name, or it cannot be made.
    """
    names = exporters_named()
    if not names:
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    from llmyard.serving.span_sending import Sending
    from llmyard.serving.tracing import Traces

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "llmyard"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(Sending(_exporter(name), meter, _waiting()))
    return Traces(provider, texts=_asked(TEXTS).lower() in ("true", "span_only", "span_and_event"))


def exporters_named() -> list[str]:
    """Returns the exporters that the environment names; none where traces are off."""
    if _asked("OTEL_SDK_DISABLED").lower() == "true":
        return []
    named = _asked(EXPORTERS) or ("otlp" if _asked(*ADDRESSES) else "none")
    return [each for each in map(str.strip, named.split(",")) if each not in ("", "none")]


def _asked(*names: str) -> str:
    """Returns the first of some variables that is set."""
    return next((value for value in (os.environ.get(name, "").strip() for name in names) if value), "")


def _waiting() -> int:
    given = _asked("OTEL_BSP_MAX_QUEUE_SIZE") or str(WAITING)
    if not given.isdigit() or not int(given):
        raise RequestError(f"OTEL_BSP_MAX_QUEUE_SIZE is {given!r}", "give a number of spans, 1 or more")
    return int(given)


def _exporter(name: str) -> Any:
    if name == "mlflow":
        return _to_mlflow()
    if name != "otlp":
        return _installed(name)()
    protocol = _asked(*PROTOCOLS) or "http/protobuf"
    kinds = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
    if protocol not in kinds:
        raise RequestError(f"{PROTOCOLS[1]} is {protocol!r}", f"give one of {', '.join(kinds)}")
    return _installed(kinds[protocol])()


def _installed(name: str) -> Any:
    """Returns what makes an exporter."""
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        remedies = {
            "otlp_proto_http": "pip install 'llmyard[traces]'",
            "otlp_proto_grpc": "pip install opentelemetry-exporter-otlp-proto-grpc",
        }
        remedy = remedies.get(name, "name otlp, mlflow or console, or install it")
        raise RequestError(
            f"traces are asked for, and the exporter {name} is not installed",
            f"{remedy}; {EXPORTERS}=none leaves them out",
        )
    return found.load()


def _to_mlflow() -> Any:
    """Returns what sends to a tracking server, which takes OTLP; with MLflow's own variables for it."""
    server = _asked("MLFLOW_TRACKING_URI")
    if not server.startswith(("http://", "https://")):
        raise RequestError(
            f"{EXPORTERS} is mlflow, and MLFLOW_TRACKING_URI is {server!r}", "give the address of a tracking server"
        )
    return _installed("otlp_proto_http")(endpoint=f"{server.rstrip('/')}/v1/traces", headers=mlflow_headers())


def mlflow_headers() -> dict[str, str]:
    """Returns what an MLflow server is to be told beside traces: the experiment, and who sends them.

    Name and password are in MLflow's variables or in its file of credentials; a token counts where they are missing.
    """
    headers = {"x-mlflow-experiment-id": _asked("MLFLOW_EXPERIMENT_ID") or "0"}
    kept = ConfigParser(interpolation=None)
    kept.read(Path.home() / ".mlflow" / "credentials", encoding="utf-8")
    user, password = (
        _asked(name.upper()) or kept.get("mlflow", name, fallback="")
        for name in ("mlflow_tracking_username", "mlflow_tracking_password")
    )
    token = _asked("MLFLOW_TRACKING_TOKEN")
    if user and password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return headers
