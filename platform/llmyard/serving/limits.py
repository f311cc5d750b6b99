"""What is held before a request is read: who asks, and how much is sent; and what is said when a handler breaks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse

from llmyard.serving.keys import is_known
from llmyard.serving.protocol import error_body

_log = logging.getLogger(__name__)


class KeyGuard:
    """ASGI middleware that answers 401 unless a known key comes along, before any of the body is read.

    The open paths are named, not the guarded ones: a route that is forgotten, or mounted elsewhere, stays shut.
    """

    def __init__(self, app: Any, open_paths: Sequence[str], key_hashes: Sequence[str]) -> None:
        self._app, self._open, self._hashes = app, frozenset(open_paths), tuple(key_hashes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open and not self._knows(scope):
            said = "missing or wrong API key; send `Authorization: Bearer KEY`"
            body = error_body(said, "authentication_error", "invalid_api_key")
            await JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Any) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        return scheme.lower() == "bearer" and is_known(key.strip(), self._hashes)


class BodyLimit:
    """ASGI middleware that answers 413 to bodies over a size, whether they say it or stream it."""

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = bytearray(), True
        too_long = not declared.isdigit() or int(declared) > self._max
        while more and not too_long:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_long = len(body) > self._max
        if too_long:
            said = f"the body is larger than {self._max} bytes"
            await JSONResponse(error_body(said, "invalid_request_error"), 413)(scope, receive, send)
            return
        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


class Unbroken:
    """ASGI middleware that answers 500 to what a handler did not expect; what happened goes to the log only."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        began = False

        async def watched(message: Any) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if began or scope["type"] != "http":
                raise  # the server cuts the connection, so that the reader sees the answer is not whole
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            await JSONResponse(server_error(), 500)(scope, receive, send)


def server_error() -> dict[str, Any]:
    """Returns what is said of a fault of ours: nothing of its insides."""
    return error_body("the server failed on this request; its log says why", "server_error")
