"""Summaries, answers and conversations over HTTP, by models that write and models that label, in both languages."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from llmyard.generation.model import Model
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.config import Bert, EncoderDecoder
from llmyard.models.families import ClassHead, SpanHeads, build, build_labeller
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Dialogue, QuestionAnswering, Summarization
from llmyard.tasks.passages import Passage, Passages, build_passages
from llmyard.tokens.tokenizer import Tokenizer

ENGLISH = "Malo went to Kora Town. It rained all day. Malo found a green lamp. Nobody was hurt."
CHINESE = "马洛去了科拉镇。雨下了一整天。马洛找到了一盏绿色的灯。没有人受伤。"
QUESTIONS = {ENGLISH: "What did Malo find?", CHINESE: "马洛找到了什么？"}


def labeller(tokenizer: Tokenizer, heads: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return build_labeller(
        Bert(hidden_size=32, heads=2, layers=1, feed_forward_size=64), heads,
        max_tokens=96, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id,
    ).eval()  # fmt: skip


def writer(tokenizer: Tokenizer, seed: int) -> Any:
    torch.manual_seed(seed)
    return build(
        EncoderDecoder(hidden_size=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_size=64),
        max_tokens=0, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id,
    ).eval()  # fmt: skip


def model_of(name: str, tokenizer: Tokenizer, made: Any, config: Any, form: str) -> Model:
    task = task_of(config, form)
    engine = TorchEngine(made, tokenizer, name, threads=1)
    return Model(f"checkpoint/{name}@v1", name, engine, tokenizer, task, task.decoding({}), config.model_dump())


@pytest.fixture(scope="module")
def models(tiny: Any) -> list[Model]:
    words: Tokenizer = tiny.tokenizer
    spans = SpanHeads(("answer",), (), words.encode("\n")[-1])
    choices = ClassHead(("chosen", "other"), 3)
    reads = QuestionAnswering(max_tokens=96, overlap_tokens=16, always_answers=True)
    return [
        model_of("chooser", words, labeller(words, choices, 1), Summarization(max_source_tokens=96), "bert"),
        model_of("summariser", words, writer(words, 2), Summarization(max_source_tokens=200), "transformer"),
        model_of("reader", words, labeller(words, spans, 4), reads, "bert"),
        model_of("answerer", words, writer(words, 3), QuestionAnswering(max_tokens=300), "transformer"),
        model_of("talker", words, writer(words, 5), Dialogue(max_source_tokens=200), "transformer"),
        model_of("tracker", words, writer(words, 6), Dialogue(max_source_tokens=200, slots=True), "transformer"),
    ]


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Passages:
    folder = tmp_path_factory.mktemp("index")
    found = [Passage("en", 0, ENGLISH[:42]), Passage("en", 1, ENGLISH[43:]), Passage("zh", 0, CHINESE)]
    build_passages(found, Path(folder))
    return Passages(Path(folder))


@pytest.fixture(scope="module")
def post(models: list[Model], passages: Passages) -> Any:
    ring, limits = KeyRing.of([hash_of("ly-right")]), Limits(max_new_tokens=40)
    apis = {True: build_api(models, ring, limits, passages=passages), False: build_api(models, ring, limits)}

    def send(path: str, body: Any, *, indexed: bool = True) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(apis[indexed])
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post(path, json=body, headers={"Authorization": "Bearer ly-right"})

        return asyncio.run(asked())

    return send


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
@pytest.mark.parametrize("count", [1, 2, None])
def test_chosen_sentences_stand_where_they_are_said_to(post: Any, text: str, count: int | None) -> None:
    said = post("/v1/summarize", {"text": text, "model": "chooser", "sentences": count}).json()
    assert said["model"] == "chooser"
    assert 0 < len(said["spans"]) <= (count or Summarization().sentences)
    joint = "" if text == CHINESE else " "
    assert said["summary"] == joint.join(text[low:high] for low, high in said["spans"])
    assert said["usage"] is None


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_written_summaries_have_the_length_that_is_asked_for(post: Any, text: str, models: list[Model]) -> None:
    body = {"text": text, "model": "summariser", "min_tokens": 7, "max_tokens": 9, "logprobs": True}
    said = post("/v1/summarize", body).json()
    assert 7 <= said["usage"]["completion_tokens"] <= 9
    assert len(said["tokens"]) == said["usage"]["completion_tokens"]
    assert said["spans"] is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "summariser", "sentences": 2}, "min_tokens"),
        ({"model": "chooser", "max_tokens": 9}, "sentences"),
        ({"model": "summariser", "min_tokens": 9, "max_tokens": 2}, "more than max_tokens"),
        ({"model": "summariser", "max_tokens": 41}, "at most 40"),
        ({"model": "reader"}, "not made for summarization"),
        ({"text": " "}, "text"),
    ],
)
def test_what_does_not_fit_a_summariser_is_refused(post: Any, body: Any, said: str) -> None:
    answer = post("/v1/summarize", {"text": ENGLISH, **body})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, CHINESE * 6, ENGLISH * 4], ids=["en", "zh", "long zh", "long en"])
def test_an_answer_is_the_characters_at_its_place(post: Any, text: str) -> None:
    question = QUESTIONS[CHINESE if CHINESE in text else ENGLISH]
    said = post("/v1/answer", {"question": question, "context": text, "model": "reader"}).json()
    assert said["answer"]
    assert text[said["start"] : said["end"]] == said["answer"]
    assert said["passages"] == []
    assert isinstance(said["score"], float)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_an_answer_from_the_index_names_its_passage(post: Any, text: str) -> None:
    said = post("/v1/answer", {"question": QUESTIONS[text], "model": "reader", "passages": 3}).json()
    assert said["passages"]
    (cited,) = [each for each in said["passages"] if each["id"] == said["cited"]]
    assert cited["text"][said["start"] : said["end"]] == said["answer"]
    assert all(each["document"] == ("zh" if text == CHINESE else "en") for each in said["passages"])
    written = post("/v1/answer", {"question": QUESTIONS[text], "model": "answerer", "max_tokens": 5}).json()
    assert (written["start"], written["score"]) == (None, None)
    assert written["usage"]["completion_tokens"] <= 5


def test_where_nothing_is_found_there_is_no_answer(post: Any) -> None:
    said = post("/v1/answer", {"question": "quintessential zebras?", "model": "reader"}).json()
    assert (said["answer"], said["cited"], said["passages"]) == ("", None, [])


@pytest.mark.parametrize(
    ("body", "indexed", "said"),
    [
        ({}, False, "no index"),
        ({"context": ENGLISH, "passages": 2}, True, "no passages are searched"),
        ({"context": ENGLISH, "model": "talker"}, True, "not made for question_answering"),
        ({"context": ENGLISH, "model": "reader", "logprobs": True}, True, "leave logprobs out"),
    ],
)
def test_what_does_not_fit_a_question_is_refused(post: Any, body: Any, indexed: bool, said: str) -> None:
    answer = post("/v1/answer", {"question": "What?", **body}, indexed=indexed)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", ["Where is Malo?", "马洛在哪里？"])
def test_a_conversation_is_gone_on_with(post: Any, content: str) -> None:
    turns = [{"role": "user", "content": content}]
    said = post("/v1/chat", {"messages": turns, "max_tokens": 6}).json()
    assert (said["model"], said["slots"]) == ("talker", None)  # the first that converses
    assert said["usage"]["completion_tokens"] <= 6
    same = post("/v1/chat/completions", {"model": "talker", "messages": turns, "max_tokens": 6}).json()
    assert same["choices"][0]["message"]["content"] == said["reply"]
    followed = post("/v1/chat", {"messages": turns, "model": "tracker", "max_tokens": 6}).json()
    assert isinstance(followed["slots"], dict)
    streamed = post("/v1/chat", {"messages": turns, "max_tokens": 6, "stream": True})
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert post("/v1/chat", {"messages": turns, "model": "reader"}).json()["error"]["message"].endswith("/v1/answer")
