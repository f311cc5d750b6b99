"""The HTTP API as a plain ASGI application: tested without Ray, run by Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.generation.engine import Delta, EngineClosed
from llmyard.generation.model import Model, whole
from llmyard.generation.stops import until
from llmyard.serving.limits import BodyLimit, KeyGuard, Unbroken, server_error
from llmyard.serving.protocol import (
    ChatAnswer,
    ChatRequest,
    Choice,
    ErrorAnswer,
    ExtractAnswer,
    ExtractRequest,
    FoundEntity,
    FoundTriple,
    PredictAnswer,
    PredictRequest,
    TranslateAnswer,
    TranslateRequest,
    Turn,
    Usage,
    error_body,
)
from llmyard.tasks.task import Decoding

OPEN_PATHS = ("/", "/health", "/openapi.json")
PAGE = Path(__file__).with_name("page.html")
# The page holds all it needs: whatever else might be slipped into it is not loaded, and nobody frames it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str, kind: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.body = status, error_body(message, kind, code)


class Models:
    """The models of an endpoint, by name; versions of one artifact are named ``name@version``."""

    def __init__(self, models: Sequence[Model]) -> None:
        count = Counter(model.name for model in models)
        named = [
            replace(model, name=model.reference.rpartition("/")[2]) if count[model.name] > 1 else model
            for model in models
        ]
        self._models = {model.name: model for model in named}

    def all(self) -> list[Model]:
        """Returns the models in the order given."""
        return list(self._models.values())

    def named(self, name: str) -> Model:
        """Returns a model by name; refuses an unknown one with 404."""
        model = self._models.get(name)
        if model is None:
            there = ", ".join(self._models)
            raise Refused(
                404, f"there is no model {name!r}; there is: {there}", "invalid_request_error", "model_not_found"
            )
        return model

    def for_task(self, task: str, name: str | None) -> Model:
        """Returns the named model, or the first for the task; refuses where none fits."""
        if name is not None:
            model = self.named(name)
            if model.task is not None and model.task.name == task:
                return model
            raise Refused(400, f"{name!r} is not made for {task}", "invalid_request_error")
        for model in self.all():
            if model.task is not None and model.task.name == task:
                return model
        raise Refused(404, f"no model here is made for {task}", "invalid_request_error", "model_not_found")


def build_api(models: Sequence[Model], key_hashes: Sequence[str], max_body_bytes: int, max_new_tokens: int) -> FastAPI:
    """Returns the application.

    Args:
        models: Loaded models.
        key_hashes: Hashes of the accepted API keys.
        max_body_bytes: Larger bodies get 413.
        max_new_tokens: More are refused.
    """
    from llmyard import __version__

    there = Models(models)
    # No /docs: FastAPI's page loads its scripts from elsewhere. The document itself is at /openapi.json.
    api = FastAPI(
        title="llmyard",
        version=__version__,
        description="Translation, knowledge graphs and chat, zh and en.",
        docs_url=None,
        redoc_url=None,
    )
    # The last one added is the first one asked.
    api.add_middleware(Unbroken)
    api.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    api.add_middleware(KeyGuard, open_paths=OPEN_PATHS, key_hashes=key_hashes)
    _add_error_handlers(api)
    _add_open_routes(api)
    bearer = HTTPBearer(auto_error=False, description="A key of `llmyard serve`.")  # for the document; see KeyGuard
    routes = APIRouter(prefix="/v1", dependencies=[Depends(bearer)], responses={"4XX": {"model": ErrorAnswer}})
    _add_routes(routes, there, max_new_tokens)
    api.include_router(routes)
    return api


def _add_open_routes(api: FastAPI) -> None:
    content = PAGE.read_text(encoding="utf-8")

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers=PAGE_HEADERS)

    @api.get("/health")
    async def health() -> dict[str, str]:
        """Returns 200 while the replica can answer."""
        return {"status": "ok"}


def _add_routes(routes: APIRouter, there: Models, max_new_tokens: int) -> None:
    @routes.get("/models")
    async def list_models() -> dict[str, Any]:
        """Returns the models, each with its artifact and task."""
        data = [
            {
                "id": model.name,
                "object": "model",
                "owned_by": "llmyard",
                "artifact": model.reference,
                "family": model.engine.capabilities().family.removeprefix("llmyard_"),
                "task": model.task.name if model.task is not None else "causal_lm",
                "task_config": model.task_config,
            }
            for model in there.all()
        ]
        return {"object": "list", "data": data}

    @routes.post("/translate")
    async def translate(body: TranslateRequest) -> TranslateAnswer:
        """Translates a text between English and Chinese."""
        model = there.for_task("translation", body.model)
        text, finish, _ = await whole(model.translate(body.text, body.target_language))
        return TranslateAnswer(model=model.name, translation=text, finish_reason=finish)

    @routes.post("/extract")
    async def extract(body: ExtractRequest) -> ExtractAnswer:
        """Finds the entities and triples of a text."""
        model = there.for_task("knowledge_graph", body.model)
        (found,) = await model.extract([body.text])
        return ExtractAnswer(
            model=model.name,
            entities=[
                FoundEntity(text=each.text, type=each.type, start=each.start, end=each.end) for each in found.entities
            ],
            triples=[FoundTriple(subject=one, relation=name, object=two) for one, name, two in found.triples],
        )

    @routes.post("/predict")
    async def predict(body: PredictRequest) -> PredictAnswer:
        """Asks a model records of the task that it was tuned for, prompted and written as in its evaluation."""
        model = there.named(body.model)
        if model.task is None:
            raise Refused(400, f"{body.model!r} is a base model, without a task", "invalid_request_error")
        try:
            async with asyncio.TaskGroup() as group:  # of one that is refused the others are given up
                asked = [group.create_task(model.said(record)) for record in body.records]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        answers = [each.result() for each in asked]
        return PredictAnswer(model=model.name, artifact=model.reference, task=model.task.name, answers=answers)

    @routes.post("/chat/completions", response_model=ChatAnswer)
    async def chat(body: ChatRequest) -> Response:
        """Answers a conversation, whole or as a stream of events."""
        model = there.named(body.model)
        max_tokens = body.max_tokens or min(Decoding().max_new_tokens, max_new_tokens)
        if max_tokens > max_new_tokens:
            raise Refused(400, f"max_tokens is {max_tokens}; at most {max_new_tokens}", "invalid_request_error")
        if not model.engine.capabilities().generates:
            raise Refused(400, _no_chat(model), "invalid_request_error")
        prompt = model.chat_prompt([message.model_dump() for message in body.messages])
        asked = replace(
            model.decoding, max_new_tokens=max_tokens, temperature=body.temperature, seed=body.seed, top_p=body.top_p
        )
        deltas = model.answer(prompt, asked)
        if body.stops():
            deltas = until(deltas, body.stops())
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
        if body.stream:
            # The first piece is awaited here, so that a refusal still becomes an error status.
            first = await anext(deltas)
            counted = body.stream_options is not None and body.stream_options.include_usage
            events = _events(head, first, deltas, len(prompt) if counted else None)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text, finish, written = await whole(deltas)
        usage = Usage.of(len(prompt), written)
        choice = Choice(message=Turn(content=text), finish_reason=finish)
        return JSONResponse(ChatAnswer(**head, choices=[choice], usage=usage).model_dump())


def _no_chat(model: Model) -> str:
    """Returns what to tell who wants to chat with a model that tags."""
    if model.task is not None and model.task.name == "knowledge_graph":
        return f"{model.name!r} does not chat; use /v1/extract"
    return f"{model.name!r} does not chat; use /v1/predict"


async def _events(
    head: Mapping[str, Any], first: Delta, deltas: AsyncGenerator[Delta], prompt_tokens: int | None
) -> AsyncIterator[str]:
    """Yields server-sent events; a stream that broke ends in an error and has no ``[DONE]``.

    With ``prompt_tokens`` a last chunk counts what was read and written, as OpenAI's ``include_usage`` has it.
    """
    written = len(first.token_ids)

    def chunk(choices: list[Any], usage: Usage | None = None) -> str:
        counted = {} if prompt_tokens is None else {"usage": usage.model_dump() if usage else None}
        body = {**head, "object": "chat.completion.chunk", "choices": choices, **counted}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def event(delta: Delta, **role: str) -> str:
        return chunk([{"index": 0, "delta": {**role, "content": delta.text}, "finish_reason": delta.finish}])

    # A reader that leaves closes the answer too, so that its place in the batch is free at once.
    async with contextlib.aclosing(deltas):
        yield event(first, role="assistant")
        try:
            async for delta in deltas:
                written += len(delta.token_ids)
                yield event(delta)
        except LlmyardError as error:
            _log.error("a stream broke", exc_info=error)
            yield f"data: {json.dumps(server_error())}\n\n"
            return
        if prompt_tokens is not None:
            yield chunk([], Usage.of(prompt_tokens, written))
        yield "data: [DONE]\n\n"


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(part) for part in item['loc'][1:])}: {item['msg']}" for item in error.errors())
        return JSONResponse(error_body(said or "the body is not valid", "invalid_request_error"), 400)

    @api.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        said = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(said, "invalid_request_error"), error.status_code, headers=error.headers)

    @api.exception_handler(LlmyardError)
    async def failed(request: Request, error: LlmyardError) -> JSONResponse:
        if isinstance(error, EngineClosed):
            return JSONResponse(error_body(str(error), "server_error"), 503, headers={"Retry-After": "1"})
        if isinstance(error, RequestError):
            return JSONResponse(error_body(str(error), "invalid_request_error"), 400)
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(server_error(), 500)
