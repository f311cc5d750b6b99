"""One question to a model of each task: what its training taught, with what the task needs, or a refusal."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from llmyard.generation.answers import answers_of
from llmyard.generation.asking import Reply, ask
from llmyard.generation.engine import Delta, Finish, GenerateRequest, Unsupported
from llmyard.generation.model import Model
from llmyard.generation.stops import until
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import QuestionAnswering, Summarization
from llmyard.tasks.task import Annotation, Choice, Entity, Marked

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


class Recorder:
    """An engine that notes what it is asked; it finds "Malo" in a text, and says "well"."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.texts: list[str] = []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        self.prompts.append(list(request.prompt))
        yield Delta((1,), "well", "stop")

    async def classify(self, inputs: Sequence[Marked]) -> list[Choice]:
        read = [each.text[slice(*each.spans[0])] for each in inputs]
        shares = [float("灯" in text or "lamp" in text) for text in read]
        return [Choice("chosen" if share else "other", {"chosen": share, "other": 1 - share}) for share in shares]

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        self.texts += texts
        at = texts[0].find("Malo", texts[0].find("\n") + 1)
        return [Annotation((Entity("Malo", "answer", at, at + 4, score=1.0),) if at >= 0 else (), ())]


def model(tiny: Any, task: Any, family: str = "transformer") -> tuple[Model, Recorder]:
    engine: Any = Recorder()
    made = task_of(task, family) if task is not None else None
    return Model("checkpoint/m@1", "m", engine, tiny.tokenizer, made), engine


def test_a_question_is_answered_from_its_context(tiny: Any) -> None:
    reader, engine = model(tiny, QuestionAnswering(), "bert")
    assert asyncio.run(ask(reader, "Who found it?", context=ENGLISH)) == Reply("Malo")
    assert engine.texts == [f"Who found it?\n{ENGLISH}"]
    assert asyncio.run(ask(reader, "Who is Malo?", context="Nobody knows.")) == Reply("")  # not in the question


def test_a_summary_is_chosen_from_the_text(tiny: Any) -> None:
    chooser, _ = model(tiny, Summarization(sentences=1), "bert")
    rain = "It rained all day.", "下了一整天的雨。"
    for text, wanted in ((f"{rain[0]} {ENGLISH}", ENGLISH), (f"{rain[1]}{CHINESE}", CHINESE)):
        assert asyncio.run(ask(chooser, text)) == Reply(wanted)


def test_a_text_is_summarised_with_the_tasks_template(tiny: Any) -> None:
    for text, language in ((ENGLISH, "en"), (CHINESE, "zh")):
        writer, engine = model(tiny, Summarization())
        assert asyncio.run(ask(writer, text)).text == "well"
        task = task_of(Summarization(), "transformer")
        assert engine.prompts == [task.prompt({"text": text, "language": language}, tiny.tokenizer)]
        assert writer.chat_prompt([{"role": "user", "content": text}]) == engine.prompts[0]
    with pytest.raises(Unsupported, match="reads 256 at once"):
        asyncio.run(ask(writer, ENGLISH * 60))


@pytest.mark.parametrize("text", ["", " \n\u3000"])
@pytest.mark.parametrize("task", [None, Summarization(), QuestionAnswering()])
def test_an_empty_text_is_refused(tiny: Any, task: Any, text: str) -> None:
    with pytest.raises(Unsupported, match="is empty"):
        asyncio.run(ask(model(tiny, task)[0], text, context=None))


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (QuestionAnswering(), {}, "--context"),
        (QuestionAnswering(), {"context": " "}, "--context"),
        (QuestionAnswering(), {"context": "x", "target": "zh"}, "does not translate"),
        (Summarization(), {"context": "x"}, "takes no context"),
        (None, {"target": "en"}, "does not translate"),
    ],
)
def test_what_a_task_lacks_or_does_not_take_is_told(tiny: Any, task: Any, options: dict[str, str], said: str) -> None:
    with pytest.raises(Unsupported) as caught:
        asyncio.run(ask(model(tiny, task)[0], "Who?", **options))
    assert said in str(caught.value)


def test_translates_into_the_other_language_unless_told(tiny: Any) -> None:
    translator = Model.load(tiny.store.get("translator", "checkpoint"))
    assert asyncio.run(ask(translator, ENGLISH)).text == CHINESE
    assert asyncio.run(ask(translator, CHINESE)).text == ENGLISH


def test_facts_are_lines_and_triples(tiny: Any) -> None:
    triples = Model.load(tiny.store.get("triples", "checkpoint"))
    reply = asyncio.run(ask(triples, "Malo lives in Kora Town."))
    assert reply == Reply("Malo | lives_in | Kora Town", triples=(("Malo", "lives_in", "Kora Town"),))


async def spoken(pieces: Sequence[str], finish: Finish, closed: list[bool]) -> AsyncGenerator[Delta]:
    try:
        for index, piece in enumerate(pieces):
            yield Delta((index,), piece, finish if index == len(pieces) - 1 else None)
    finally:
        closed.append(True)


@pytest.mark.parametrize(
    ("pieces", "stops", "text", "finish"),
    [
        (["one ", "two"], ["three"], "one two", "length"),
        (["one t", "wo th", "ree"], ["two"], "one ", "stop"),
        (["a", "ab", "abb"], ["bb"], "aaba", "stop"),
        (["x<", "e", "nd", "> y"], ["<end>", "y"], "x", "stop"),
        (["x<en"], ["<end>"], "x<en", "length"),
        (["b then a"], ["a", "b"], "", "stop"),
    ],
)
def test_an_answer_ends_before_the_first_stop(pieces: list[str], stops: list[str], text: str, finish: Finish) -> None:
    closed: list[bool] = []

    async def whole() -> list[Delta]:
        return [delta async for delta in until(spoken(pieces, "length", closed), stops)]

    deltas = asyncio.run(whole())
    assert "".join(delta.text for delta in deltas) == text
    assert [delta.finish for delta in deltas] == [None] * (len(deltas) - 1) + [finish]
    assert closed == [True]  # its place in the engine's batch is free


def test_likely_tokens_only_are_drawn_below_top_p(tiny: Any) -> None:
    import torch

    from llmyard.generation.queued import nucleus

    shares = torch.tensor([0.1, 0.5, 0.15, 0.25])
    assert nucleus(shares, 1.0).tolist() == shares.tolist()
    assert (nucleus(shares, 0.5) > 0).tolist() == [False, True, False, False]
    assert (nucleus(shares, 0.6) > 0).tolist() == [False, True, False, True]
    assert (nucleus(shares, 1e-9) > 0).tolist() == [False, True, False, False]
    base = Model.load(tiny.store.get("base", "checkpoint"))
    request = GenerateRequest("1", base.tokenizer.encode("有一天"), 4, top_p=0.0)
    with pytest.raises(Unsupported, match="top_p"):
        asyncio.run(anext(base.engine.generate(dataclasses.replace(request))))


class Stepper(Recorder):
    """Finds the first sentence as evidence; with it behind the question, "Kora" as the answer."""

    FACT, CONTEXT = "Malo took the lamp.", "Malo took the lamp. Malo went to Kora."

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        return self.annotate_batch(texts)

    def annotate_batch(self, texts: Sequence[str]) -> list[Annotation]:
        self.texts += texts
        found = []
        for text in texts:
            knows = self.FACT in text.partition("\n")[0]
            what, kind, score = ("Kora", "answer", 2.0) if knows else (self.FACT, "evidence", 1.0)
            at = text.index(what, text.index("\n"))
            found.append(Annotation((Entity(what, kind, at, at + len(what), score),), ()))
        return found

    def capabilities(self) -> Any:
        return SimpleNamespace(max_prompt_tokens=256)


def test_a_question_is_read_again_with_what_was_found_alone_and_in_batches(tiny: Any) -> None:
    engine: Any = Stepper(tiny.tokenizer)
    task = task_of(QuestionAnswering(hops=2), "bert")
    reader = Model("checkpoint/m@1", "m", engine, tiny.tokenizer, task)
    record = {"question": "Where is the lamp?", "context": engine.CONTEXT, "language": "en", "answers": []}
    alone = asyncio.run(reader.said(record))
    assert engine.texts == [
        f"Where is the lamp?\n{engine.CONTEXT}",
        f"Where is the lamp? {engine.FACT}\n{engine.CONTEXT}",
    ]
    assert task.prediction(record, alone) == "Kora"
    assert [each["text"] for window in alone for each in window["entities"]] == [engine.FACT, "Kora"]
    assert answers_of(engine, task, [record] * 3, 2, {}) == [alone] * 3
    once = Model("checkpoint/m@1", "m", engine, tiny.tokenizer, task_of(QuestionAnswering(), "bert"))
    assert asyncio.run(once.predict(record)) == ""
