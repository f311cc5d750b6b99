"""Traces of requests: which spans there are, what stands in them and what does not."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmyard.core.errors import LlmyardError
from llmyard.generation.engine import Delta
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of
from llmyard.serving.tracing import Traces

KEY = {"Authorization": "Bearer ly-right"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROMPT, CHAT = "有一天", {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60}
ANSWER = "，马洛去了科拉镇。"


class Traced:
    """An endpoint whose spans are kept."""

    def __init__(self, models: list[Model], *, texts: bool = False, most: int = 10_000) -> None:
        self._kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        limits = Limits(max_new_tokens=100, max_tokens_under_way=most)
        self.api = build_api(models, KeyRing.of([hash_of("ly-right")]), limits, traces=Traces(provider, texts=texts))

    def ask(self, path: str, body: Any = None, headers: Any = KEY) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url="http://x") as client:
                return await client.request("GET" if body is None else "POST", path, json=body, headers=headers)

        return asyncio.run(send())

    def spans(self) -> tuple[Any, list[Any]]:
        """The span of the one request since, and those of its answers; parts are below those."""
        found = list(self._kept.get_finished_spans())
        self._kept.clear()
        (top,) = [each for each in found if each.kind is SpanKind.SERVER]
        assert {each.context.trace_id for each in found} == {top.context.trace_id}
        self.parts = {
            each.context.span_id: sorted(
                (part for part in found if part.parent and part.parent.span_id == each.context.span_id),
                key=lambda part: part.start_time,
            )
            for each in found
        }
        return top, self.parts[top.context.span_id]

    def kept(self) -> tuple[Any, ...]:
        """All spans so far."""
        return self._kept.get_finished_spans()


@pytest.fixture(scope="module")
def models(tiny: Any) -> list[Model]:
    return [Model.load(tiny.store.get(name, "checkpoint")) for name in ("triples", "translator", "base")]


@pytest.fixture
def traced(models: list[Model]) -> Traced:
    return Traced(models)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_below_its_callers_with_one_for_each_answer(traced: Traced, stream: bool) -> None:
    headers = {**KEY, "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = traced.ask("/v1/chat/completions", {**CHAT, "n": 2, "stream": stream}, headers)
    assert answer.status_code == 200
    told = "".join(each.to_json() for each in traced.kept())
    top, answers = traced.spans()
    assert (f"{top.context.trace_id:032x}", f"{top.parent.span_id:016x}") == (TRACE, PARENT)
    assert top.name == "POST /v1/chat/completions"
    assert dict(top.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "llmyard.request.id": answer.headers["x-request-id"], "gen_ai.request.model": "base",
    }  # fmt: skip
    assert top.status.status_code is StatusCode.UNSET
    assert len(answers) == 2
    for each in answers:
        assert each.name == "chat base"
        assert each.attributes["gen_ai.response.finish_reasons"] == ("stop",)
        assert each.attributes["gen_ai.usage.output_tokens"] > 5
        assert top.start_time <= each.start_time <= each.end_time <= top.end_time
        parts = traced.parts[each.context.span_id]
        assert [part.name for part in parts] == ["admission", "queue", "prefill", "decode"]
        edges = [each.start_time, *(part.end_time for part in parts)]
        assert edges == [*(part.start_time for part in parts), each.end_time]  # one after the other, without a gap
        assert all(part.end_time > part.start_time for part in parts[1:])
    if not stream:
        usage = answer.json()["usage"]
        assert sum(each.attributes["gen_ai.usage.output_tokens"] for each in answers) == usage["completion_tokens"]
        assert {each.attributes["gen_ai.usage.input_tokens"] for each in answers} == {usage["prompt_tokens"]}
    for text in (PROMPT, ANSWER, "马洛", "ly-right", hash_of("ly-right")):
        assert text not in told
        assert json.dumps(text)[1:-1] not in told


def test_texts_stand_in_a_span_where_they_are_asked_for(models: list[Model]) -> None:
    traced = Traced(models, texts=True)
    traced.ask("/v1/chat/completions", {**CHAT, "stream": True})
    (answer,) = traced.spans()[1]
    (read,) = json.loads(answer.attributes["gen_ai.input.messages"])
    (written,) = json.loads(answer.attributes["gen_ai.output.messages"])
    assert read == {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}
    assert written == {"role": "assistant", "parts": [{"type": "text", "content": ANSWER}], "finish_reason": "stop"}


def test_labels_and_vectors_are_answers_too(traced: Traced) -> None:
    traced.ask("/v1/embeddings", {"model": "base", "input": ["a", "b"]})
    top, (answer,) = traced.spans()
    assert (answer.name, answer.attributes["llmyard.texts"]) == ("embeddings base", 2)
    assert top.attributes["gen_ai.request.model"] == "base"
    traced.ask("/v1/extract", {"text": "Malo lives in Kora Town."})
    assert [each.name for each in traced.spans()[1]] == ["annotate triples"]
    traced.ask("/v1/translate", {"text": "Malo found a green lamp.", "target_language": "zh"})
    assert [each.name for each in traced.spans()[1]] == ["text_completion translator"]


def test_what_is_not_sampled_leaves_nothing(
    traced: Traced, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        traced.ask("/v1/chat/completions", CHAT, {**KEY, "traceparent": f"00-{TRACE}-{PARENT}-00"}).status_code == 200
    )
    assert not traced.kept()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    never = Traced(models)
    assert never.ask("/v1/chat/completions", CHAT).status_code == 200
    assert not never.kept()


def test_strangers_and_open_paths_leave_none(traced: Traced) -> None:
    assert traced.ask("/v1/chat/completions", CHAT, {"traceparent": f"00-{TRACE}-{PARENT}-01"}).status_code == 401
    assert traced.ask("/health").status_code == 200
    assert traced.ask("/").status_code == 200
    assert not traced.kept()


@pytest.mark.parametrize(
    "parent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "\xe9" * 99]
)
def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(traced: Traced, parent: str) -> None:
    headers = {**KEY, "traceparent": parent.encode("latin-1")}
    assert traced.ask("/v1/models", None, headers).status_code == 200
    top, answers = traced.spans()
    assert top.parent is None
    assert (top.name, answers) == ("GET /v1/models", [])


def test_a_refusal_is_no_error_of_the_endpoint(traced: Traced) -> None:
    assert traced.ask("/v1/chat/completions", {**CHAT, "max_tokens": 1000}).status_code == 400
    top, answers = traced.spans()
    assert (top.attributes["http.response.status_code"], answers) == (400, [])
    assert top.status.status_code is StatusCode.UNSET
    assert traced.ask("/v1/absent").status_code == 404
    assert traced.spans()[0].name == "GET other"


def test_an_engine_that_fails_is_an_error_of_both(models: list[Model]) -> None:
    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(models[2].engine, name)

        async def generate(self, request: Any) -> AsyncIterator[Delta]:
            yield Delta((5,), "well")
            raise LlmyardError("it broke")

    traced = Traced([dataclasses.replace(models[2], engine=Failing())])  # type: ignore[arg-type]
    assert traced.ask("/v1/chat/completions", CHAT).status_code == 500
    top, (answer,) = traced.spans()
    assert [each.status.status_code for each in (top, answer)] == [StatusCode.ERROR] * 2
    assert (top.attributes["error.type"], answer.attributes["error.type"]) == ("500", "error")
    assert answer.attributes["gen_ai.usage.output_tokens"] == 1


def test_a_reader_that_leaves_ends_its_spans(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({**CHAT, "stream": True, "temperature": 2, "min_tokens": 50}).encode()
    headers = [(b"authorization", b"Bearer ly-right"), (b"content-type", b"application/json"),
               (b"content-length", str(len(body)).encode())]  # fmt: skip
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "root_path": "",
        "headers": headers, "client": ("x", 0), "server": ("x", 0),
    }  # fmt: skip

    async def leave() -> None:
        began = asyncio.Event()
        came = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            if (first := next(came, None)) is not None:
                return first
            await began.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                began.set()
                await asyncio.sleep(0)

        await traced.api(scope, receive, send)

    asyncio.run(leave())
    top, (answer,) = traced.spans()
    assert answer.attributes["gen_ai.response.finish_reasons"] == ("aborted",)
    assert top.attributes["gen_ai.request.model"] == "base"
    assert "ended span" not in caplog.text


def test_a_request_that_finds_no_room_tells_the_model_it_asked(models: list[Model]) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(models[2].engine, name)

        async def generate(self, request: Any) -> AsyncIterator[Delta]:
            await asyncio.sleep(0.2)
            yield Delta((5,), "well", "stop")

    traced = Traced([dataclasses.replace(models[2], engine=Slow())], most=70)  # type: ignore[arg-type]

    async def both() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(traced.api), base_url="http://x") as client:
            asked = (client.post("/v1/chat/completions", json=CHAT, headers=KEY) for _ in range(2))
            return [each.status_code for each in await asyncio.gather(*asked)]

    assert sorted(asyncio.run(both())) == [200, 429]
    (refused,) = [each for each in traced.kept() if each.attributes.get("http.response.status_code") == 429]
    assert refused.attributes["gen_ai.request.model"] == "base"
    assert len([each for each in traced.kept() if each.name == "chat base"]) == 1


def test_what_waits_for_the_engine_is_in_the_queue(traced: Traced, models: list[Model]) -> None:
    engine: Any = models[2].engine
    free = threading.Event()

    async def ask() -> httpx.Response:
        busy = asyncio.wrap_future(engine._call(lambda _: [free.wait(30)], [""]))  # the engine's thread does that first
        async with httpx.AsyncClient(transport=httpx.ASGITransport(traced.api), base_url="http://x") as client:
            asked = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT, headers=KEY))
            await asyncio.sleep(0.5)
            free.set()
            await busy
            return await asked

    assert asyncio.run(ask()).status_code == 200
    (answer,) = traced.spans()[1]
    queue, prefill = traced.parts[answer.context.span_id][1:3]
    assert queue.end_time - queue.start_time > 4e8  # ns
    assert prefill.end_time - prefill.start_time < queue.end_time - queue.start_time
