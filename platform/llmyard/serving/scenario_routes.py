"""The five scenarios as routes: translation, summaries, answers, conversation, graphs; and records of any task."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from llmyard.generation.model import Model, Written, whole
from llmyard.generation.scenarios import Answer, answered, answered_from, span_of, summarised
from llmyard.generation.stops import until
from llmyard.serving.models import CONVERSING
from llmyard.serving.refusals import Refused
from llmyard.serving.scenario_protocol import (
    AnswerAnswer,
    AnswerRequest,
    ConverseAnswer,
    ConverseRequest,
    ExtractAnswer,
    ExtractRequest,
    FoundEntity,
    FoundPassage,
    FoundTriple,
    PredictAnswer,
    PredictRequest,
    SummarizeAnswer,
    SummarizeRequest,
    TranslateAnswer,
    TranslateRequest,
)
from llmyard.serving.service import Service, counted, told
from llmyard.serving.streaming import ChatChunks, streamed
from llmyard.tasks.dialogue import States
from llmyard.tasks.task import Annotation

PASSAGES = 5


def add_scenario_routes(routes: APIRouter, service: Service) -> None:
    """Adds the routes."""

    @routes.post("/translate")
    async def translate(body: TranslateRequest) -> TranslateAnswer:
        """Translates a text between English and Chinese."""
        model = service.models.for_task(["translation"], body.model)
        service.check(body.text)
        prompt = model.translation_prompt(body.text, body.target_language)
        decoding = service.decoding(model, body, body.max_tokens)
        written = await whole(model.answer(prompt, decoding))
        return TranslateAnswer(
            model=model.name, artifact=model.reference, translation=written.text, finish_reason=written.finish,
            usage=counted(len(prompt), written), tokens=told(model, written, body),
        )  # fmt: skip

    @routes.post("/summarize")
    async def summarize(body: SummarizeRequest) -> SummarizeAnswer:
        """Summarises a text in its own language, or answers a query about it."""
        model = service.models.for_task(["summarization"], body.model)
        service.check(body.text, body.query)
        writes = model.engine.capabilities().generates
        if writes and body.sentences is not None:
            raise Refused(400, f"{model.name!r} writes its summaries; give min_tokens and max_tokens")
        if not writes and (body.min_tokens is not None or body.max_tokens is not None or body.logprobs):
            raise Refused(400, f"{model.name!r} chooses sentences and writes nothing; give `sentences`")
        decoding = service.decoding(model, body, body.max_tokens)
        decoding = replace(decoding, min_new_tokens=min(body.min_tokens or 0, decoding.max_new_tokens))
        found = await summarised(model, body.text, body.query, decoding, body.sentences)
        return SummarizeAnswer(
            model=model.name, artifact=model.reference, summary=found.text,
            spans=None if found.spans is None else list(found.spans), finish_reason=_finish(found.written),
            usage=counted(found.prompt_tokens, found.written), tokens=told(model, found.written, body),
        )  # fmt: skip

    @routes.post("/answer")
    async def answer(body: AnswerRequest) -> AnswerAnswer:
        """Answers a question from a text, or from passages of the endpoint's index, which are named."""
        model = service.models.for_task(["question_answering"], body.model)
        service.check(body.question, body.context)
        if body.logprobs and not model.engine.capabilities().generates:
            raise Refused(400, f"{model.name!r} marks answers and writes nothing; leave logprobs out")
        decoding = service.decoding(model, body, body.max_tokens)
        if body.context is not None:
            found = await answered(model, body.question, body.context, decoding)
        elif service.passages is None:
            raise Refused(400, "give a `context`: this endpoint has no index to find one in (serve --index NAME)")
        else:
            count = body.passages or PASSAGES
            (read,) = await asyncio.to_thread(service.passages.search, [body.question], count)
            found = await answered_from(model, body.question, read, decoding)
        return _answer(model, found, body)

    @routes.post("/chat", response_model=ConverseAnswer)
    async def chat(body: ConverseRequest) -> Response:
        """Goes on with a conversation; with a model that follows what the user wants, tells that as slots."""
        model = _conversing(service, body.model)
        service.check(*(turn.content for turn in body.messages))
        prompt = model.chat_prompt([turn.model_dump() for turn in body.messages])
        decoding = replace(
            service.decoding(model, body, body.max_tokens),
            temperature=body.temperature, top_p=body.top_p, seed=body.seed,
        )  # fmt: skip
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        if body.stream:
            return await streamed(ChatChunks(model), [until(model.answer(prompt, decoding), stops)], None)
        written = await whole(until(model.answer(prompt, decoding), stops))
        slots = model.task.prediction({}, written.text) if isinstance(model.task, States) else None
        reply = ConverseAnswer(
            model=model.name, artifact=model.reference, reply=written.text, slots=slots, finish_reason=written.finish,
            usage=counted(len(prompt), written), tokens=told(model, written, body),
        )  # fmt: skip
        return JSONResponse(reply.model_dump())

    @routes.post("/extract")
    async def extract(body: ExtractRequest) -> ExtractAnswer:
        """Finds the entities and triples of a text."""
        model = service.models.for_task(["knowledge_graph"], body.model)
        service.check(body.text)
        (found,) = await model.extract([body.text])
        entities = [
            FoundEntity(text=each.text, type=each.type, start=each.start, end=each.end) for each in found.entities
        ]
        triples = [_triple(found, triple) for triple in found.triples]
        return ExtractAnswer(model=model.name, artifact=model.reference, entities=entities, triples=triples)

    @routes.post("/predict")
    async def predict(body: PredictRequest) -> PredictAnswer:
        """Asks a model records of the task that it was tuned for, prompted and written as in its evaluation."""
        model = service.models.named(body.model)
        if model.task is None:
            raise Refused(400, f"{body.model!r} is a base model, without a task")
        for record in body.records:
            service.check(*(value for value in record.values() if isinstance(value, str)))
        try:
            async with asyncio.TaskGroup() as group:  # of one that is refused the others are given up
                tasks = [group.create_task(model.said(record)) for record in body.records]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        answers = [each.result() for each in tasks]
        return PredictAnswer(model=model.name, artifact=model.reference, task=model.task.name, answers=answers)


def _conversing(service: Service, name: str | None) -> Model:
    """Returns the model that a conversation is had with; any that writes, where it is named."""
    if name is None:
        return service.models.for_task(CONVERSING, None)
    model = service.models.named(name)
    if not model.engine.capabilities().generates:
        raise Refused(400, no_chat(model))
    return model


def no_chat(model: Model) -> str:
    """Returns what to tell who wants to chat with a model that labels."""
    routes = {"knowledge_graph": "/v1/extract", "question_answering": "/v1/answer", "summarization": "/v1/summarize"}
    route = routes.get(model.task.name if model.task is not None else "", "/v1/predict")
    return f"{model.name!r} does not chat; use {route}"


def _answer(model: Model, found: Answer, body: AnswerRequest) -> AnswerAnswer:
    start, end = found.span or (None, None)
    return AnswerAnswer(
        model=model.name, artifact=model.reference, answer=found.text, start=start, end=end, score=found.score,
        cited=found.cited,
        passages=[FoundPassage(id=each.id, document=each.document, text=each.text) for each in found.passages],
        finish_reason=_finish(found.written), usage=counted(found.prompt_tokens, found.written),
        tokens=told(model, found.written, body),
    )  # fmt: skip


def _triple(found: Annotation, triple: tuple[str, str, str]) -> FoundTriple:
    one, name, two = triple
    places = {"subject_span": span_of(found, one), "object_span": span_of(found, two)}
    return FoundTriple(subject=one, relation=name, object=two, **places)


def _finish(written: Written | None) -> str:
    return "stop" if written is None else written.finish
