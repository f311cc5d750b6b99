"""Sends spans in a thread of their own; those that cannot be sent are dropped and counted, and no answer waits."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from llmyard.serving.watching import Meter

DROPPED = "llmyard_spans_dropped_total"


class Sending(SpanProcessor):
    """Hands spans that have ended to an exporter, a batch at a time.

    Args:
        exporter: That sends them.
        meter: Counts those that are dropped.
        most: So many may wait, and be under way; more are dropped.
    """

    def __init__(self, exporter: SpanExporter, meter: Meter, most: int) -> None:
        self._meter, self._most = meter, most
        self._held, self._lock = 0, threading.Lock()
        # Its own bound drops in silence; it is never reached.
        self._batches = BatchSpanProcessor(
            _Counted(exporter, self), max_queue_size=most, max_export_batch_size=min(512, most)
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span on, where there is room."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            full = self._held >= self._most
            self._held += not full
        if full:
            self.dropped(1, "queue_full")
        else:
            self._batches.on_end(span)

    def sent(self, spans: int) -> None:
        """Makes room again."""
        with self._lock:
            self._held -= spans

    def dropped(self, spans: int, reason: str) -> None:
        """Counts spans that nobody will see."""
        self._meter.count(DROPPED, spans, {"reason": reason})

    def shutdown(self) -> None:
        """Sends what waits, and ends."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Sends what waits."""
        return self._batches.force_flush(timeout_millis)


class _Counted(SpanExporter):
    """An exporter, what it does not take being counted."""

    def __init__(self, exporter: SpanExporter, sending: Sending) -> None:
        self._exporter, self._sending = exporter, sending

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._sending.sent(len(spans))
            if result is not SpanExportResult.SUCCESS:
                self._sending.dropped(len(spans), "not_taken")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
