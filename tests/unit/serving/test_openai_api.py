"""OpenAI's routes, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from llmyard.generation.engine import GenerateRequest
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")
BEGINNING, REST = "有一天", "，马洛去了科拉镇。"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def models(tiny: Any) -> list[Model]:
    return [Model.load(tiny.store.get(name, "checkpoint")) for name in ("base", "translator", "triples")]


@pytest.fixture(scope="module")
def api(models: list[Model]) -> Any:
    return build_api(models, KeyRing.of([hash_of("ly-right")]), Limits(max_new_tokens=60))


Asked = Callable[[Any], Coroutine[Any, Any, Any]]


@pytest.fixture
def ask(api: Any) -> Callable[[Asked], Any]:
    def run(asked: Asked) -> Any:
        async def inside() -> Any:
            transport = httpx.AsyncClient(transport=httpx.ASGITransport(api))
            async with openai.AsyncOpenAI(
                api_key="ly-right", base_url="http://x/v1", http_client=transport, max_retries=0
            ) as client:
                return await asked(client)

        return asyncio.run(inside())

    return run


def chat(**more: Any) -> Asked:
    body = {"model": "base", "messages": [{"role": "user", "content": BEGINNING}], "max_tokens": 60, **more}
    return lambda client: client.chat.completions.create(**body)


def test_models_are_listed_and_shown(ask: Any) -> None:
    listed = ask(lambda client: client.models.list()).data
    assert [each.id for each in listed] == ["base", "translator", "triples"]
    one = ask(lambda client: client.models.retrieve("translator"))
    assert (one.owned_by, one.task, one.writes, one.engine) == ("llmyard", "translation", True, "torch")
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        ask(lambda client: client.models.retrieve("无"))


def test_a_conversation_is_answered(ask: Any) -> None:
    said = ask(chat())
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == (REST, "stop")
    parts = [{"type": "text", "text": BEGINNING[:1]}, {"type": "text", "text": BEGINNING[1:]}]
    assert ask(chat(messages=[{"role": "user", "content": parts}])).choices[0].message.content == REST
    assert ask(chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=1)).choices[0].finish_reason == "length"


def test_a_stream_is_what_the_whole_answer_is(ask: Any) -> None:
    async def streamed(client: Any) -> list[Any]:
        return [chunk async for chunk in await chat(stream=True, n=2, logprobs=True)(client)]

    chunks = ask(streamed)
    for index in (0, 1):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content for choice in own) == REST
        assert [choice.finish_reason for choice in own][-1] == "stop"
        assert all(choice.logprobs for choice in own if choice.finish_reason is None)


def test_several_answers_differ_by_their_seeds_and_come_again(ask: Any) -> None:
    def texts(**more: Any) -> list[str]:
        return [choice.message.content for choice in ask(chat(n=4, temperature=3.0, max_tokens=12, **more)).choices]

    one = texts(seed=5)
    assert len(set(one)) > 1
    assert texts(seed=5) == one
    assert texts(seed=6)[:3] == one[1:]
    assert len({tuple(texts()) for _ in range(3)}) > 1  # without a seed they are others each time


def test_probabilities_are_the_models_own(ask: Any, models: list[Model]) -> None:
    import torch

    told = ask(chat(logprobs=True, top_logprobs=3)).choices[0].logprobs.content
    model = models[0]
    ids = model.tokenizer.encode(BEGINNING)
    written = model.tokenizer.encode(REST)
    engine: Any = model.engine
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([[*ids, *written]])).logits[0].log_softmax(-1)
    assert len(told) == len(written)
    for at, (each, token) in enumerate(zip(told, written, strict=True)):
        row = logits[len(ids) - 1 + at]
        assert math.isclose(each.logprob, float(row[token]), abs_tol=1e-3)
        best = row.topk(3).values.tolist()
        assert [one.logprob for one in each.top_logprobs] == pytest.approx(best, abs=1e-3)
        assert each.top_logprobs[0].token == each.token  # greedy
    # A character that is spelled in several tokens: their bytes are its bytes.
    assert bytes(byte for each in told for byte in each.bytes).decode() == REST


def test_probabilities_are_told_before_anything_is_held(ask: Any) -> None:
    held = (
        ask(chat(logprobs=True, top_logprobs=1, extra_body={"forbidden_words": ["，"]}, max_tokens=1))
        .choices[0]
        .logprobs.content[0]
    )
    assert held.top_logprobs[0].token != held.token
    assert held.logprob < held.top_logprobs[0].logprob < 0


def test_json_follows_the_schema_or_says_that_it_is_cut(ask: Any) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    said = ask(chat(response_format=asked, temperature=1.0, seed=3)).choices[0]
    assert said.finish_reason == "stop"
    found = json.loads(said.message.content)
    assert set(found) == {"name", "old"}
    assert len(found["name"]) <= 8
    assert " " not in said.message.content.replace(found["name"], "")
    assert ask(chat(response_format=asked, max_tokens=3)).choices[0].finish_reason == "length"
    free = ask(chat(response_format={"type": "json_object"}, temperature=1.0, seed=1)).choices[0]
    assert free.message.content.startswith("{")
    if free.finish_reason == "stop":
        assert isinstance(json.loads(free.message.content), dict)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "no JSON schema"),
        ({"enum": ["x" * 40_000]}, "bytes"),
        ({"$ref": "#/nowhere"}, "followed|JSON schema"),
        ({"type": "string", "pattern": "("}, "followed|JSON schema"),
    ],
)
def test_schemas_that_cannot_be_followed_are_refused(ask: Any, schema: Any, said: str) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=said):
        ask(chat(response_format=asked))


def test_answers_match_an_expression_or_are_one_of_some(ask: Any) -> None:
    said = ask(chat(extra_body={"guided_regex": "[ab]{3}c"})).choices[0].message.content
    assert (len(said), said[-1]) == (4, "c")
    assert set(said[:3]) <= {"a", "b"}
    for choices in (["ja (1)", "no|"], ["马洛", "科拉镇。"]):
        assert ask(chat(extra_body={"guided_choice": choices})).choices[0].message.content in choices


def test_texts_are_gone_on_with_several_at_once(ask: Any) -> None:
    def complete(**more: Any) -> Asked:
        body = {"model": "base", "prompt": BEGINNING, "max_tokens": 60, **more}
        return lambda client: client.completions.create(**body)

    assert ask(complete()).choices[0].text == REST
    both = ask(complete(prompt=["One morning", BEGINNING], logprobs=1))
    assert [choice.text for choice in both.choices] == [", Malo went to Kora Town.", REST]
    told = both.choices[0].logprobs
    assert "".join(told.tokens) == both.choices[0].text
    assert told.text_offset[:2] == [0, len(told.tokens[0])]
    assert both.usage.completion_tokens > ask(complete()).usage.completion_tokens

    async def streamed(client: Any) -> str:
        return "".join([chunk.choices[0].text async for chunk in await complete(stream=True)(client)])

    assert ask(streamed) == REST


def test_token_ids_are_a_prompt_too(ask: Any, models: list[Model]) -> None:
    ids = models[0].tokenizer.encode(BEGINNING)
    said = ask(lambda client: client.completions.create(model="base", prompt=ids, max_tokens=60))
    assert said.choices[0].text == REST


def test_vectors_are_the_engines_in_both_encodings(ask: Any, models: list[Model]) -> None:
    texts = [BEGINNING, "Malo"]
    for model in models:
        wanted = asyncio.run(model.engine.encode(texts))
        for encoding in ("float", openai.NOT_GIVEN):  # the client asks for base64 where nothing is said
            name = model.name
            found = ask(
                lambda client, name=name, encoding=encoding: client.embeddings.create(
                    model=name, input=texts, encoding_format=encoding
                )
            )
            for each, row in zip(found.data, wanted, strict=True):
                assert each.embedding == pytest.approx(row, abs=1e-5)


def test_a_wrong_key_is_told_as_openai_tells_it(api: Any) -> None:
    async def asked() -> None:
        transport = httpx.AsyncClient(transport=httpx.ASGITransport(api))
        async with openai.AsyncOpenAI(api_key="wrong", base_url="http://x/v1", http_client=transport) as client:
            await client.models.list()

    with pytest.raises(openai.AuthenticationError):
        asyncio.run(asked())


def test_an_engine_refuses_two_bonds_at_once(models: list[Model]) -> None:
    from llmyard.generation.engine import Unsupported

    async def asked() -> None:
        request = GenerateRequest("x", [5], json_schema="{}", regex="a")
        await anext(models[0].engine.generate(request))

    with pytest.raises(Unsupported, match="one of them"):
        asyncio.run(asked())
