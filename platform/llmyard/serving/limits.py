"""Limits on what a request may send, held before the body is parsed."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from llmyard.serving.protocol import error_body


class BodyLimit:
    """ASGI middleware that answers 413 to bodies over a size, whether they say it or stream it."""

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = b"", True
        too_long = not declared.isdigit() or int(declared) > self._max
        while more and not too_long:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
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
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)
