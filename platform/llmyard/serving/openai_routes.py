"""OpenAI's routes: models, chat completions, completions, embeddings."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from llmyard.generation.engine import Unsupported
from llmyard.generation.model import Model, Written, whole
from llmyard.generation.stops import until
from llmyard.serving.openai_protocol import (
    ChatAnswer,
    ChatRequest,
    Choice,
    CompletionAnswer,
    CompletionChoice,
    CompletionRequest,
    Embedding,
    EmbeddingAnswer,
    EmbeddingRequest,
    EmbeddingUsage,
    Logprobs,
    Reply,
    Sampling,
)
from llmyard.serving.protocol import Usage, shown
from llmyard.serving.refusals import Refused
from llmyard.serving.scenario_routes import no_chat
from llmyard.serving.schemas import check_follows, schema_of
from llmyard.serving.service import Service
from llmyard.serving.streaming import ChatChunks, CompletionChunks, completion_logprobs, head_of, streamed
from llmyard.tasks.task import Decoding

CHAT_TOKENS, COMPLETION_TOKENS = Decoding().max_new_tokens, 16


def add_openai_routes(routes: APIRouter, service: Service) -> None:
    """Adds the routes."""

    @routes.get("/models")
    async def list_models() -> dict[str, Any]:
        """Returns the models, each with its artifact and task."""
        return {"object": "list", "data": [service.models.about(model) for model in service.models.all()]}

    @routes.get("/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        """Returns a model with its lineage: all it was made from."""
        model = service.models.named(name)
        return {**service.models.about(model), "lineage": service.models.lineage(model)}

    @routes.post("/chat/completions", response_model=ChatAnswer)
    async def chat(body: ChatRequest) -> Response:
        """Answers a conversation, whole or as a stream of events."""
        model = _writing(service, body.model)
        messages = [message.plain() for message in body.messages]
        service.check(*(message["content"] for message in messages))
        length = service.length(body.max_tokens or body.max_completion_tokens, CHAT_TOKENS)
        prompt = model.chat_prompt(messages)
        schema = schema_of(body.response_format)
        decoding = replace(
            _decoding(model, body, length), top_logprobs=body.told(), json_schema=schema or model.decoding.json_schema
        )
        answers = [until(model.answer(prompt, each), body.stops()) for each in _seeded(decoding, body)]
        if body.stream:
            return await streamed(ChatChunks(model), answers, len(prompt) if body.counts else None)
        written = await asyncio.gather(*map(whole, answers))
        choices = [_choice(model, index, each, body) for index, each in enumerate(written)]
        for each in written:
            check_follows(each, schema)
        usage = Usage.of(len(prompt), sum(each.tokens for each in written))
        head = head_of("chat.completion", "chatcmpl", model)
        return JSONResponse(ChatAnswer(**head, choices=choices, usage=usage).model_dump())

    @routes.post("/completions", response_model=CompletionAnswer)
    async def complete(body: CompletionRequest) -> Response:
        """Goes on with texts as they stand, in no template."""
        model = _writing(service, body.model)
        service.check(*(each for each in body.prompts() if isinstance(each, str)))
        prompts = [each if isinstance(each, list) else model.completion_prompt(each) for each in body.prompts()]
        decoding = replace(
            _decoding(model, body, service.length(body.max_tokens, COMPLETION_TOKENS)), top_logprobs=body.logprobs
        )
        answers = [
            until(model.answer(prompt, each), body.stops()) for prompt in prompts for each in _seeded(decoding, body)
        ]
        read = sum(map(len, prompts))
        if body.stream:
            return await streamed(CompletionChunks(model), answers, read if body.counts else None)
        written = await asyncio.gather(*map(whole, answers))
        choices = [_continuation(model, index, each, body) for index, each in enumerate(written)]
        usage = Usage.of(read, sum(each.tokens for each in written))
        head = head_of("text_completion", "cmpl", model)
        return JSONResponse(CompletionAnswer(**head, choices=choices, usage=usage).model_dump())

    @routes.post("/embeddings")
    async def embed(body: EmbeddingRequest) -> EmbeddingAnswer:
        """Returns a vector for each text: the mean of the encoder's last hidden states."""
        model, texts = service.models.named(body.model), body.texts()
        service.check(*texts)
        vectors = await model.engine.encode(texts)
        read = sum(len(ids) for ids in model.tokenizer.encode_batch(texts))
        data = [
            Embedding(index=index, embedding=_packed(vector) if body.encoding_format == "base64" else vector)
            for index, vector in enumerate(vectors)
        ]
        return EmbeddingAnswer(model=model.name, data=data, usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read))


def _writing(service: Service, name: str) -> Model:
    model = service.models.named(name)
    if not model.engine.capabilities().generates:
        raise Refused(400, no_chat(model))
    return model


def _decoding(model: Model, body: Sampling, length: int) -> Decoding:
    """Returns how a model writes for a request, in what both routes share."""
    regex = body.guided_regex
    if body.guided_choice is not None:
        regex = "|".join(re.escape(each) for each in body.guided_choice)
    if regex is not None and model.decoding.json_schema is not None:
        raise Unsupported(f"{model.name} writes JSON of its task", "leave guided_regex and guided_choice out")
    return replace(
        model.decoding, max_new_tokens=length, temperature=body.temperature, top_p=body.top_p,
        min_new_tokens=min(body.min_tokens, length), language=body.language, forbidden=tuple(body.forbidden_words),
        no_repeat=body.no_repeat, regex=regex,
    )  # fmt: skip


def _seeded(decoding: Decoding, body: Sampling) -> list[Decoding]:
    """Returns the decoding of each of several answers: they differ in their seeds."""
    first = secrets.randbits(62) if body.seed is None else body.seed
    return [replace(decoding, seed=first + at) for at in range(body.n)]


def _choice(model: Model, index: int, written: Written, body: ChatRequest) -> Choice:
    told = Logprobs(content=[shown(each, model.tokenizer) for each in written.likely]) if body.logprobs else None
    return Choice(index=index, message=Reply(content=written.text), logprobs=told, finish_reason=written.finish)


def _continuation(model: Model, index: int, written: Written, body: CompletionRequest) -> CompletionChoice:
    told = None if body.logprobs is None else completion_logprobs(written, 0, model.tokenizer)
    return CompletionChoice(index=index, text=written.text, logprobs=told, finish_reason=written.finish)


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
