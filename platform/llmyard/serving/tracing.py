"""Traces of requests in OpenTelemetry's terms: a span for a request, below it one for each answer and what its time
went into. Names are those of its conventions for HTTP and for generative AI.

What a request says, and what is answered, stands in a span only where that was asked for by name.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from llmyard.serving.watching import Answered, Asking

CONVERSING = ("/v1/chat/completions", "/v1/chat")
_PARENT = TraceContextTextMapPropagator()
_PARENT_HEADERS = (b"traceparent", b"tracestate")


class Traces:
    """Begins the traces of an endpoint's requests.

    Args:
        provider: Samples spans, and takes those that have ended to where they are looked at, without waiting for that.
        texts: Whether spans tell what was asked and answered.
    """

    def __init__(self, provider: TracerProvider, *, texts: bool = False) -> None:
        from llmyard import __version__

        self._provider, self._texts = provider, texts
        self._tracer = provider.get_tracer("llmyard", __version__)

    def begin(self, request: Asking, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
        """Returns the trace of a request, below the span that its ``traceparent`` names; None where it is not sampled.

        Args:
            request: That has come.
            method: Of HTTP.
            headers: That came with it.
        """
        # What comes from a monotonic clock is told in the time of day.
        offset = time.time_ns() - time.monotonic_ns()
        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PARENT_HEADERS}
        span = self._tracer.start_span(
            f"{method} {request.route}", _PARENT.extract(carried), SpanKind.SERVER,
            {"http.request.method": method, "http.route": request.route, "llmyard.request.id": request.id},
            start_time=offset + int(1e9 * request.began),
        )  # fmt: skip
        return Trace(self._tracer, span, offset, request.route, self._texts) if span.is_recording() else None

    def close(self, seconds: float = 5.0) -> None:
        """Sends what is left, for so long at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(seconds)


class Trace:
    """The trace of one request.

    Args:
        tracer: That makes spans.
        span: Of the request.
        offset: From a monotonic time to that of day, in nanoseconds.
        route: That was asked.
        texts: Whether spans tell what was asked and answered.
    """

    def __init__(self, tracer: Any, span: Span, offset: int, route: str, texts: bool) -> None:
        self._tracer, self._span, self._offset, self._route = tracer, span, offset, route
        self.texts = texts

    def asks(self, model: str) -> None:
        """Tells which model is asked."""
        self._span.set_attribute("gen_ai.request.model", model)

    def wrote(self, answered: Answered) -> None:
        """Tells of an answer that has ended."""
        ended, request = time.monotonic(), answered.request
        told: dict[str, Any] = {
            "gen_ai.usage.input_tokens": len(request.prompt), "gen_ai.usage.output_tokens": answered.tokens,
            "gen_ai.request.max_tokens": request.max_new_tokens, "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p, "gen_ai.response.finish_reasons": (answered.reason,),
        }  # fmt: skip
        if answered.first:
            told["gen_ai.response.time_to_first_chunk"] = answered.first - answered.asked
        if answered.texts is not None:
            read, written = answered.texts
            told["gen_ai.input.messages"] = _message("user", read)
            told["gen_ai.output.messages"] = _message("assistant", written, finish_reason=answered.reason)
        operation = "chat" if self._route in CONVERSING else "text_completion"
        span = self._answer(operation, answered.model, told, answered.asked, failed=answered.reason == "error")
        below = set_span_in_context(span)
        self._part("admission", below, answered.asked, answered.admitted)
        self._part("queue", below, answered.admitted, answered.begun or ended)
        if answered.begun:
            self._part("prefill", below, answered.begun, answered.first or ended)
        if answered.first:
            self._part("decode", below, answered.first, ended)
        span.end(self._at(ended))

    def read(self, operation: str, model: str, texts: int, asked: float, *, failed: bool) -> None:
        """Tells of texts that have been read.

        Args:
            operation: What was done with them.
            model: That read them.
            texts: How many they were.
            asked: Seconds, monotonic.
            failed: Whether that failed.
        """
        self._answer(operation, model, {"llmyard.texts": texts}, asked, failed=failed).end()

    def end(self, status: int) -> None:
        """Ends the trace.

        Args:
            status: Of the answer; 0 where the caller left, or the connection broke, before it had one.
        """
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            self._span.set_attribute("error.type", str(status) if status else "aborted")
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _answer(self, operation: str, model: str, told: dict[str, Any], asked: float, *, failed: bool) -> Span:
        named = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "llmyard", "gen_ai.request.model": model}
        below = set_span_in_context(self._span)
        span: Span = self._tracer.start_span(
            f"{operation} {model}", below, SpanKind.INTERNAL, {**named, **told}, start_time=self._at(asked)
        )
        if failed:
            span.set_attribute("error.type", "error")
            span.set_status(Status(StatusCode.ERROR))
        return span

    def _part(self, name: str, below: Any, began: float, ended: float) -> None:
        self._tracer.start_span(name, below, start_time=self._at(began)).end(self._at(ended))

    def _at(self, seconds: float) -> int:
        return self._offset + int(1e9 * seconds)


def _message(role: str, text: str, **more: str) -> str:
    parts = [{"type": "text", "content": text}]
    return json.dumps([{"role": role, "parts": parts, **more}], ensure_ascii=False)
