"""What is counted of an endpoint, in the names that monitoring of model servers uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from llmyard.generation.engine import GenerateRequest, Stats

if TYPE_CHECKING:
    from llmyard.serving.tracing import Trace

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
COUNTS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: Of it.
        kind: Of it.
        description: What is counted.
        tags: That tell one series from another.
        bounds: Of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...]
    bounds: tuple[float, ...] = ()


_HERE, _ASKED = ("model",), ("model", "route")
_FIRST, _GAP = "From a request to its first token.", "From a token to the next, the mean of an answer."
METRICS = {
    metric.name: metric
    for metric in (
        Metric("llmyard_requests_total", "counter", "Requests answered, by status.", ("route", "status")),
        Metric("llmyard_request_seconds", "histogram", "From a request to the end of its answer.", ("route",), SECONDS),
        Metric("llmyard_time_to_first_token_seconds", "histogram", _FIRST, _ASKED, SECONDS),
        Metric("llmyard_inter_token_seconds", "histogram", _GAP, _ASKED, SECONDS),
        Metric("llmyard_prompt_tokens_total", "counter", "Tokens read in prompts.", _ASKED),
        Metric("llmyard_generation_tokens_total", "counter", "Tokens written.", _ASKED),
        Metric("llmyard_prompt_tokens", "histogram", "Tokens of a prompt.", _ASKED, COUNTS),
        Metric("llmyard_generation_tokens", "histogram", "Tokens of an answer.", _ASKED, COUNTS),
        Metric("llmyard_finished_total", "counter", "Answers ended, by reason.", ("model", "route", "reason")),
        Metric("llmyard_requests_running", "gauge", "Answers being written.", _HERE),
        Metric("llmyard_requests_waiting", "gauge", "Requests that wait for the engine.", _HERE),
        Metric("llmyard_kv_cache_bytes", "gauge", "Bytes of keys and values that the engine holds.", _HERE),
        Metric("llmyard_spans_dropped_total", "counter", "Spans of traces that were not sent, by reason.", ("reason",)),
    )
}  # fmt: skip


class Meter(Protocol):
    """Takes what is counted to where it is looked at."""

    def count(self, name: str, amount: float, tags: Mapping[str, str]) -> None:
        """Adds to a counter."""

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Puts a value into a histogram."""

    def set(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Sets a gauge."""


class Unwatched:
    """Counts nothing."""

    def count(self, name: str, amount: float, tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def observe(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def set(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Does nothing."""


@dataclass(slots=True)
class Asking:
    """The request that is being answered.

    Attributes:
        id: Told to who asked, and in the log.
        route: Its path.
        key: Hash of the key it came with, "" without one.
        began: Seconds, monotonic.
        trace: Of it; None where none is kept.
    """

    id: str
    route: str
    key: str
    began: float
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that has ended, for its trace; times are seconds, monotonic.

    Attributes:
        model: That wrote it.
        request: To the engine.
        asked: When it was asked for.
        admitted: When the engine was handed it.
        begun: When the engine began it; 0 where it did not.
        first: When its first token came; 0 where none did.
        tokens: That were written.
        reason: Why it ended.
        texts: What the model read and wrote; None where that is not told.
    """

    model: str
    request: GenerateRequest
    asked: float
    admitted: float
    begun: float
    first: float
    tokens: int
    reason: str
    texts: tuple[str, str] | None


_asking: ContextVar[Asking | None] = ContextVar("asking", default=None)


def asking() -> Asking:
    """Returns the request that is being answered."""
    return _asking.get() or Asking("", "", "", time.monotonic())


@contextlib.contextmanager
def being(request: Asking) -> Iterator[None]:
    """Makes a request the one that is being answered, inside the block."""
    token = _asking.set(request)
    try:
        yield
    finally:
        _asking.reset(token)


class Counted:
    """Counts one answer: when its tokens came, how many they were, why it ended.

    Args:
        meter: Where it is counted.
        model: That writes.
        prompt_tokens: That it read.
        request: That it answers.

    Attributes:
        tokens: Written so far.
        first: When the first of them came, in seconds, monotonic; 0 before.
    """

    def __init__(self, meter: Meter, model: str, prompt_tokens: int, request: Asking) -> None:
        self._meter, self._began = meter, request.began
        self._tags = {"model": model, "route": request.route}
        self.first = 0.0
        self.tokens = 0
        meter.count("llmyard_prompt_tokens_total", prompt_tokens, self._tags)
        meter.observe("llmyard_prompt_tokens", prompt_tokens, self._tags)

    def take(self, tokens: int) -> None:
        """Takes note of tokens. It is called for each piece, and does no more than it must."""
        if not self.tokens:
            self.first = time.monotonic()
            self._meter.observe("llmyard_time_to_first_token_seconds", self.first - self._began, self._tags)
        self.tokens += tokens

    def end(self, reason: str) -> None:
        """Takes note of the end; times between tokens are told once an answer: a histogram costs more than a token."""
        if self.tokens > 1:
            between = (time.monotonic() - self.first) / (self.tokens - 1)
            self._meter.observe("llmyard_inter_token_seconds", between, self._tags)
        self._meter.count("llmyard_generation_tokens_total", self.tokens, self._tags)
        self._meter.observe("llmyard_generation_tokens", self.tokens, self._tags)
        self._meter.count("llmyard_finished_total", 1, {**self._tags, "reason": reason})


def tell(meter: Meter, model: str, stats: Stats) -> None:
    """Tells what an engine is doing now."""
    tags = {"model": model}
    meter.set("llmyard_requests_running", stats.running, tags)
    meter.set("llmyard_requests_waiting", stats.waiting, tags)
    meter.set("llmyard_kv_cache_bytes", stats.kv_cache_bytes, tags)
