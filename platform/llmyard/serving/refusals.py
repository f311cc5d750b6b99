"""Requests that are not answered: with which status, and how that is said in OpenAI's shape."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from llmyard.core.errors import LlmyardError, RequestError
from llmyard.generation.engine import EngineClosed

_log = logging.getLogger(__name__)


class Error(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer whose status is an error."""

    error: Error


class Refused(Exception):
    """A request that is answered with an error status.

    Args:
        status: Of the answer.
        message: What is wrong, and what to do.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``.
        retry_after: Seconds after which the request may be sent again; None: as it is, it never will be answered.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.body = status, error_body(message, kind, code)
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Returns an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def server_error() -> dict[str, Any]:
    """Returns what is said of a fault of ours: nothing of its insides."""
    return error_body("the server failed on this request; its log says why", "server_error")


def answer_to(error: LlmyardError) -> tuple[int, dict[str, Any]]:
    """Returns status and body that tell a caller of an error: all of one that he can mend, nothing of one of ours."""
    if isinstance(error, EngineClosed):
        return 503, error_body(str(error), "server_error")
    if isinstance(error, RequestError):
        return 400, error_body(str(error), "invalid_request_error")
    return 500, server_error()


def add_error_handlers(api: FastAPI) -> None:
    """Makes an application say all its errors in OpenAI's shape."""

    @api.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status, headers=error.headers)

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
        status, body = answer_to(error)
        if status == 500:
            _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(body, status, headers={"Retry-After": "1"} if status == 503 else None)
