"""An endpoint's routes asked in this process: what a caller would be told, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from llmyard.core.errors import LlmyardError
from llmyard.generation.model import Model
from llmyard.serving.api import build_api
from llmyard.serving.config import Limits
from llmyard.serving.keys import KeyRing, hash_of, new_key

AT_ONCE = 24


def said_over_http(model: Model, records: Sequence[dict[str, Any]]) -> list[Any]:
    """Returns what an endpoint says of each record by ``/v1/predict``; None of one that it refuses.

    Args:
        model: Behind the endpoint.
        records: Of its task; some are asked at the same time.

    Raises:
        LlmyardError: The endpoint fails.
    """
    key = new_key()
    limits = Limits(max_body_bytes=1 << 30, deadline_seconds=3600)
    api = build_api([model], KeyRing.of([hash_of(key)]), limits)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(record: dict[str, Any]) -> Any:
        async with room:
            status, said = await post(api, "/v1/predict", {"model": model.name, "records": [record]}, key)
        if status == 400:
            return None
        if status != 200:
            raise LlmyardError(f"an endpoint with {model.reference} answers {status}: {said}", "see its log")
        return said["answers"][0]

    async def every() -> list[Any]:
        return await asyncio.gather(*map(one, records))

    return asyncio.run(every())


async def post(api: Any, path: str, body: Any, key: str) -> tuple[int, Any]:
    """Returns status and answer of a request to an ASGI application."""
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(data)).encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("in-process", 0), "server": ("in-process", 0),
    }  # fmt: skip
    came = False
    status, parts = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal came
        if came:
            await asyncio.Event().wait()  # nobody leaves
        came = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await api(scope, receive, send)
    return status, json.loads(b"".join(parts))
