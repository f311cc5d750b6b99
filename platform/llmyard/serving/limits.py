"""What is held before a request is read: who asks, and how much is sent; and what is said when a handler breaks."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from llmyard.serving.keys import KeyRing
from llmyard.serving.refusals import error_body, server_error
from llmyard.serving.watching import Asking, Meter, being

if TYPE_CHECKING:
    from llmyard.serving.tracing import Traces

_log = logging.getLogger(__name__)
_requests = logging.getLogger("llmyard.requests")


class Door:
    """ASGI middleware that names, counts and notes every request, and answers 401 unless a known key comes along,
    before any of the body is read.

    The open paths are named, not the guarded ones: a route that is forgotten, or mounted elsewhere, stays shut. What is
    noted of a request is its id, route, status, time and the beginning of its key's hash; never what it says.

    Args:
        app: Behind it.
        open_paths: That need no key.
        keys: That are known.
        route_of: Returns the route of a path, one of few, for counting.
        meter: Where requests are counted.
        traces: Of requests with a known key; None keeps none.
    """

    def __init__(
        self,
        app: Any,
        open_paths: Sequence[str],
        keys: KeyRing,
        route_of: Callable[[str], str],
        meter: Meter,
        traces: Traces | None = None,
    ) -> None:
        self._app, self._open, self._keys = app, frozenset(open_paths), keys
        self._route_of, self._meter, self._traces = route_of, meter, traces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        is_open = path in self._open
        key = "" if is_open else await self._known(scope)
        request = Asking(uuid.uuid4().hex, self._route_of(path), key or "", time.monotonic())
        if self._traces is not None and key:
            request.trace = self._traces.begin(request, scope["method"], scope["headers"])
        status = 0

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request.id.encode())]
            await send(message)

        try:
            with being(request):
                if key is None:
                    await _unknown()(scope, receive, told)
                else:
                    await self._app(scope, receive, told)
        finally:
            if not is_open:
                self._note(request, status)
            if request.trace is not None:
                request.trace.end(status)

    def _note(self, request: Asking, status: int) -> None:
        seconds = time.monotonic() - request.began
        self._meter.count("llmyard_requests_total", 1, {"route": request.route, "status": str(status)})
        self._meter.observe("llmyard_request_seconds", seconds, {"route": request.route})
        _requests.info(
            "id=%s route=%s status=%d ms=%d key=%s", request.id, request.route, status, 1000 * seconds, request.key[:8]
        )

    async def _known(self, scope: Any) -> str | None:
        """Returns the hash of a request's key; None where it has none that is known."""
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        return await self._keys.known(key.strip()) if scheme.lower() == "bearer" else None


def _unknown() -> JSONResponse:
    said = "missing, wrong or expired API key; send `Authorization: Bearer KEY`"
    body = error_body(said, "authentication_error", "invalid_api_key")
    return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})


class BodyLimit:
    """ASGI middleware that answers 413 to bodies over a size, whether they say it or stream it, and 408 to those that
    do not come: a body that trickles would hold a place of the replica.

    Args:
        app: Behind it.
        max_bytes: Of a body.
        seconds: In which all of it must have come.
    """

    def __init__(self, app: Any, max_bytes: int, seconds: float) -> None:
        self._app, self._max, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            said = f"the body did not come within {self._seconds:g} seconds"
            await _refusal(408, said)(scope, receive, send)
            return
        except _TooLong:
            await _refusal(413, f"the body is larger than {self._max} bytes")(scope, receive, send)
            return
        if body is None:
            return  # who asked has left
        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _body(self, scope: Any, receive: Any) -> bytes | None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max:
            raise _TooLong
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max:
                raise _TooLong
        return bytes(body)


class _TooLong(Exception):
    """A body is larger than allowed."""


def _refusal(status: int, said: str) -> JSONResponse:
    return JSONResponse(error_body(said, "invalid_request_error"), status, headers={"Connection": "close"})


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
