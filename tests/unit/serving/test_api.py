"""The HTTP API without Ray: who may ask, what is refused and how, and what is answered."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from llmyard.core.errors import LlmyardError
from llmyard.generation.engine import Delta
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import QuestionAnswering

KEY = {"Authorization": "Bearer ly-right"}
ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"
MAX_BODY = 20_000
LIMITS = Limits(max_body_bytes=MAX_BODY, max_new_tokens=100)
USER = [{"role": "user", "content": ENGLISH}]
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/models", None),
    ("POST", "/v1/translate", {"text": ENGLISH, "target_language": "zh"}),
    ("POST", "/v1/extract", {"text": "Malo lives in Kora Town."}),
    ("POST", "/v1/predict", {"model": "translator", "records": [{"source": ENGLISH, "target_language": "zh"}]}),
    ("POST", "/v1/chat/completions", {"model": "base", "messages": USER, "max_tokens": 4}),
    ("POST", "/v1/completions", {"model": "base", "prompt": "有一天", "max_tokens": 4}),
    ("POST", "/v1/embeddings", {"model": "base", "input": [ENGLISH, CHINESE]}),
    ("POST", "/v1/chat", {"model": "base", "messages": USER, "max_tokens": 4}),
    ("GET", "/v1/models/base", None),
]
UNFIT = {"/v1/summarize", "/v1/answer"}  # no model of this endpoint is made for them


@pytest.fixture(scope="module")
def models(tiny: Any) -> list[Model]:
    return [Model.load(tiny.store.get(name, "checkpoint")) for name in ("triples", "translator", "base")]


@pytest.fixture(scope="module")
def api(models: list[Model]) -> Any:
    return build_api(models, KeyRing.of([hash_of("ly-other"), hash_of("ly-right")]), LIMITS)


class Client:
    """Asks the application."""

    def __init__(self, api: Any) -> None:
        self._transport = httpx.ASGITransport(api)

    def ask(self, method: str, path: str, body: Any = None, headers: Any = KEY, content: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://x") as client:
                return await client.request(method, path, json=body, headers=headers, content=content)

        return asyncio.run(send())

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.ask("POST", path, body, **options)


@pytest.fixture
def client(api: Any) -> Client:
    return Client(api)


def refused(answer: httpx.Response, status: int) -> str:
    """The message of an error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return str(error["message"])


def test_page_health_and_document_are_open(client: Client) -> None:
    page = client.ask("GET", "/", headers={})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.ask("GET", "/health", headers={}).json() == {"status": "ok"}
    document = client.ask("GET", "/openapi.json", headers={}).json()
    shown = {path.replace("/base", "/{name}") for _, path, _ in ROUTES} | UNFIT
    assert set(document["paths"]) == {"/health", *shown}
    for path in shown:
        for operation in document["paths"][path].values():
            assert operation["security"] == [{"HTTPBearer": []}]
            assert set(operation["responses"]) == {"200", "4XX"}


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_every_route_wants_a_key(client: Client, method: str, path: str, body: Any) -> None:
    values = (
        "Bearer ly-wrong",
        "Basic ly-right",
        "Bearer",
        "ly-right",
        f"Bearer {hash_of('ly-right')}",
        b"Bearer k\xe9",
    )
    wrong: tuple[Any, ...] = ({}, *({"Authorization": value} for value in values))
    for headers in wrong:
        answer = client.ask(method, path, body, headers=headers)
        refused(answer, 401)
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.ask(method, path, body).status_code == 200
    assert client.ask(method, path, body, headers={"Authorization": "bearer ly-other"}).status_code == 200


def test_the_key_is_asked_for_before_the_body_is_read(client: Client) -> None:
    refused(client.post("/v1/translate", content=b"{", headers={}), 401)
    refused(client.post("/v1/translate", content=b"x" * (MAX_BODY + 1), headers={}), 401)
    for path in ("/v1/absent", "/docs", "//v1/models", "/v1/models/"):
        refused(client.ask("GET", path, headers={}), 401)


def test_unknown_paths_and_methods_are_refused_alike(client: Client) -> None:
    refused(client.ask("GET", "/v1/absent"), 404)
    refused(client.ask("GET", "/docs"), 404)  # FastAPI's page would load its scripts from another host
    refused(client.ask("GET", "/v1/translate"), 405)


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("/v1/translate", {"text": None}, "text"),
        ("/v1/translate", {"text": 5}, "text"),
        ("/v1/translate", {"text": ""}, "text"),
        ("/v1/translate", {"text": " \n"}, "text"),
        ("/v1/translate", {"text": "\ud800"}, "text"),
        ("/v1/translate", {"target_language": "fr"}, "target_language"),
        ("/v1/translate", {"tone": "kind"}, "tone"),
        ("/v1/translate", {"model": "base"}, "not made for translation"),
        ("/v1/translate", {"text": ENGLISH * 100}, "split it"),
        ("/v1/extract", {"text": "马洛" * 100}, "split it"),
        ("/v1/extract", {"text": ""}, "text"),
        ("/v1/extract", {"model": 3}, "model"),
        ("/v1/chat/completions", {"max_tokens": 101}, "at most 100"),
        ("/v1/chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/chat/completions", {"max_tokens": "many"}, "max_tokens"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]}, "no message of the user"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "lamp " * 200}]}, "shorten it"),
        ("/v1/chat/completions", {"temperature": -1}, "temperature"),
        ("/v1/chat/completions", {"seed": 2**63}, "seed"),
        ("/v1/chat/completions", {"top_p": 0}, "top_p"),
        ("/v1/chat/completions", {"n": 9}, "n: "),
        ("/v1/chat/completions", {"top_logprobs": 2}, "logprobs: true"),
        ("/v1/chat/completions", {"max_completion_tokens": 4}, "max_tokens or max_completion_tokens"),
        ("/v1/chat/completions", {"guided_regex": "("}, "regular expression"),
        ("/v1/chat/completions", {"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex or guided_choice"),
        ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format"),
        ("/v1/completions", {"prompt": [9999]}, "does not know"),
        ("/v1/completions", {"model": "triples"}, "/v1/extract"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/chat/completions", {"stop": ""}, "stop"),
        ("/v1/chat/completions", {"stop": list("abcde")}, "stop"),
        ("/v1/chat/completions", {"frequency_penalty": 0.5}, "frequency_penalty"),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, "stream: true"),
        ("/v1/chat/completions", {"model": "triples"}, "/v1/extract"),
        ("/v1/chat/completions", {"stream": True, "messages": [{"role": "user", "content": "lamp " * 200}]}, "shorten"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_requests_are_told_why(client: Client, path: str, change: dict[str, Any], said: str) -> None:
    (right,) = [body for _, each, body in ROUTES if each == path and body is not None]
    body = json.dumps({**right, **change}).encode()
    assert said in refused(client.post(path, content=body, headers={**KEY, "Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 9000, b'{"temperature": NaN}'], ids=repr
)
def test_what_is_no_request_is_refused(client: Client, content: bytes) -> None:
    headers = {**KEY, "Content-Type": "application/json"}
    for path in ("/v1/translate", "/v1/extract", "/v1/chat/completions"):
        refused(client.post(path, content=content, headers=headers), 400)
    refused(client.post("/v1/extract", content=b'{"text": "x"}', headers={**KEY, "Content-Type": "text/plain"}), 400)


def test_an_unknown_model_is_not_found(client: Client) -> None:
    for path, body in ((path, body) for _, path, body in ROUTES if body is not None):
        answer = client.post(path, {**body, "model": "无"})
        assert "triples, translator, base" in refused(answer, 404)
        assert answer.json()["error"]["code"] == "model_not_found"


def test_large_bodies_are_refused_declared_or_streamed(client: Client) -> None:
    async def streamed() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 10 + 1):
            yield b"x" * 10

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    refused(client.post("/v1/extract", content=b"x" * (MAX_BODY + 1)), 413)
    refused(client.post("/v1/extract", content=streamed()), 413)
    refused(client.post("/v1/extract", content=endless()), 413)
    refused(client.post("/v1/extract", content=b"x", headers={**KEY, "Content-Length": "-1"}), 413)
    refused(client.post("/v1/extract", {"text": "灯" * 3000}), 400)  # at the limit it is read


def test_translates_both_ways(client: Client) -> None:
    answer = client.post("/v1/translate", {"text": ENGLISH, "target_language": "zh"})
    said = answer.json()
    assert (said["model"], said["translation"], said["finish_reason"]) == ("translator", CHINESE, "stop")
    assert said["artifact"].startswith("checkpoint/translator@")
    assert said["usage"]["completion_tokens"] > 5
    assert said["tokens"] is None
    assert CHINESE in answer.text  # not escaped
    answer = client.post("/v1/translate", {"text": CHINESE, "target_language": "en", "model": "translator"})
    assert answer.json()["translation"] == ENGLISH


def test_finds_facts_in_chinese(client: Client) -> None:
    answer = client.post("/v1/extract", {"text": "马洛住在科拉镇。"}).json()
    assert answer["triples"] == [
        {"subject": "马洛", "relation": "lives_in", "object": "科拉镇", "subject_span": [0, 2], "object_span": [4, 7]}
    ]
    assert answer["entities"][1] == {"text": "科拉镇", "type": "place", "start": 4, "end": 7}


def test_lists_models_with_their_artifacts(client: Client) -> None:
    listed = client.ask("GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [(each["id"], each["task"]) for each in listed["data"]] == [
        ("triples", "knowledge_graph"), ("translator", "translation"), ("base", "causal_lm"),
    ]  # fmt: skip
    assert all(each["artifact"].startswith(f"checkpoint/{each['id']}@") for each in listed["data"])


def test_chats_whole(client: Client) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60}
    answer = client.post("/v1/chat/completions", body).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "base")
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "，马洛去了科拉镇。"},
        "logprobs": None,
        "finish_reason": "stop",
    }
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert min(usage.values()) > 0
    assert (
        client.post("/v1/chat/completions", {**body, "max_tokens": 2}).json()["choices"][0]["finish_reason"] == "length"
    )
    body = {"model": "translator", "messages": [{"role": "user", "content": CHINESE}]}
    assert client.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"] == ENGLISH


def events(answer: httpx.Response) -> list[str]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in answer.text.split("\n\n")[:-1]]


def test_chats_as_a_stream(client: Client) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60, "stream": True}
    said = events(client.post("/v1/chat/completions", body))
    assert said[-1] == "[DONE]"
    chunks = [json.loads(each) for each in said[:-1]]
    assert len(chunks) > 5
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {(chunks[0]["id"], "chat.completion.chunk")}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta["content"] for delta in deltas) == "，马洛去了科拉镇。"
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def test_openais_further_fields_are_taken(client: Client) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60}
    more = {"top_p": 0.1, "temperature": 1.0, "n": 1, "user": "u-1", "stop": ["科拉", "nowhere"]}
    (choice,) = client.post("/v1/chat/completions", {**body, **more}).json()["choices"]
    assert choice["message"]["content"] == "，马洛去了"
    assert choice["finish_reason"] == "stop"


def test_a_stream_ends_before_a_stop_and_counts_in_a_last_chunk(client: Client) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "有一天"}], "max_tokens": 60, "stream": True}
    asked = {**body, "stop": "去了", "stream_options": {"include_usage": True}}
    said = events(client.post("/v1/chat/completions", asked))
    assert said[-1] == "[DONE]"
    *chunks, last = [json.loads(each) for each in said[:-1]]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "，马洛"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert last["usage"]["completion_tokens"] > 3
    assert "usage" not in json.loads(events(client.post("/v1/chat/completions", body))[-2])


def test_versions_of_one_artifact_are_served_under_names_of_their_own(models: list[Model]) -> None:
    base = models[2]
    again = dataclasses.replace(base, reference="checkpoint/base@v2")
    client = Client(build_api([base, again, models[1]], KeyRing.of([hash_of("ly-right")]), LIMITS))
    names = [each["id"] for each in client.ask("GET", "/v1/models").json()["data"]]
    assert names == [base.reference.removeprefix("checkpoint/"), "base@v2", "translator"]
    for name in names[:2]:
        answer = client.post("/v1/chat/completions", {"model": name, "messages": USER, "max_tokens": 2})
        assert answer.json()["model"] == name
    refused(client.post("/v1/chat/completions", {"model": "base", "messages": USER}), 404)


def test_a_reading_model_does_not_advise_a_route_that_refuses_it(models: list[Model]) -> None:
    reader = dataclasses.replace(models[0], name="reader", task=task_of(QuestionAnswering(), "bert"))
    client = Client(build_api([reader], KeyRing.of([hash_of("ly-right")]), LIMITS))
    said = refused(client.post("/v1/chat/completions", {"model": "reader", "messages": USER}), 400)
    assert "/v1/extract" not in said
    assert "/v1/answer" in said


@pytest.fixture(params=[RuntimeError("secret at /root/x"), LlmyardError("secret at /root/x", "secret")], ids=repr)
def broken(request: pytest.FixtureRequest, models: list[Model], monkeypatch: pytest.MonkeyPatch) -> str:
    """Engines that fail before anything is said or, asked for seven tokens, after the first piece."""

    async def annotate(texts: Any) -> Any:
        raise request.param

    async def generate(asked: Any) -> AsyncIterator[Delta]:
        if asked.max_new_tokens == 7:
            yield Delta((5,), "well", None)
        raise request.param

    for model in models:
        monkeypatch.setattr(model.engine, "annotate", annotate)
        monkeypatch.setattr(model.engine, "encode", annotate)
        monkeypatch.setattr(model.engine, "generate", generate)
    return str(request.param)


@pytest.mark.usefixtures("broken")
def test_a_fault_of_ours_is_told_without_its_insides(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    for _, path, body in (each for each in ROUTES if each[0] == "POST"):
        for more in ({}, {"stream": True}) if path.endswith("completions") else ({},):
            answer = client.post(path, {**body, **more})
            refused(answer, 500)
            assert "secret" not in answer.text
            assert "/root" not in answer.text
            assert "secret at /root/x" in caplog.text
            caplog.clear()


def test_a_stream_that_breaks_has_no_end_mark(client: Client, broken: str, models: list[Model]) -> None:
    body = {"model": "base", "messages": USER, "max_tokens": 7, "stream": True}
    if broken.startswith("secret at /root/x\n"):
        said = events(client.post("/v1/chat/completions", body))
        assert [json.loads(each).get("error", {}).get("type") for each in said] == [None, "server_error"]
        assert not any("secret" in each for each in said)
        return
    with pytest.raises(RuntimeError):  # the server cuts the connection
        client.post("/v1/chat/completions", body)


def test_a_closed_engine_asks_to_come_back(tiny: Any) -> None:
    model = Model.load(tiny.store.get("translator", "checkpoint"))
    client = Client(build_api([model], KeyRing.of([hash_of("ly-right")]), LIMITS))
    asyncio.run(model.engine.drain())
    answer = client.post("/v1/translate", {"text": ENGLISH, "target_language": "zh"})
    refused(answer, 503)
    assert answer.headers["retry-after"] == "1"


def test_without_a_model_for_a_task_it_is_not_found(tiny: Any) -> None:
    model = Model.load(tiny.store.get("base", "checkpoint"))
    client = Client(build_api([model], KeyRing.of([hash_of("ly-right")]), LIMITS))
    assert "no model here" in refused(client.post("/v1/extract", {"text": "x"}), 404)


def test_predict_says_what_the_models_say_in_evaluation(client: Client, models: list[Model]) -> None:
    from llmyard.generation.answers import answers_of

    triples, translator, _ = models
    for model, records in (
        (translator, [{"source": ENGLISH, "target_language": "zh"}, {"source": CHINESE, "target_language": "en"}]),
        (triples, [{"text": "Malo lives in Kora Town."}, {"text": "马洛住在科拉镇。"}]),
    ):
        said = client.post("/v1/predict", {"model": model.name, "records": records}).json()
        assert said["artifact"] == model.reference
        assert model.task is not None
        assert said["task"] == model.task.name
        wanted = answers_of(model.engine, model.task, records, 2, {})  # type: ignore[arg-type]
        assert said["answers"] == json.loads(json.dumps(wanted))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "translator", "records": [{"source": ENGLISH}]}, "no record of translation"),
        ({"model": "translator", "records": [{"source": 3, "target_language": "zh"}]}, "no record of translation"),
        ({"model": "translator", "records": []}, "records"),
        ({"model": "translator", "records": [{"source": "word " * 3000, "target_language": "zh"}]}, "too long"),
        ({"model": "base", "records": [{"text": "a"}]}, "base model"),
    ],
)
def test_predict_refuses_what_is_no_record(client: Client, body: Any, said: str) -> None:
    assert said in refused(client.post("/v1/predict", body), 400)


def test_where_one_record_is_refused_the_others_are_given_up(
    client: Client, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(each for each in models if each.name == "translator")
    ended: list[str] = []

    async def generate(asked: Any) -> AsyncIterator[Delta]:
        try:
            await asyncio.sleep(60)
            yield Delta((1,), "late", "stop")
        except asyncio.CancelledError:
            ended.append("given up")
            raise

    monkeypatch.setattr(model.engine, "generate", generate)
    records = [{"source": ENGLISH, "target_language": "zh"}, {"source": ENGLISH * 200, "target_language": "zh"}]
    body = {"model": "translator", "records": records}
    assert "too long" in refused(client.post("/v1/predict", body), 400)
    assert ended == ["given up"]
