"""The playground: a page of fixed files, read once, that asks the endpoint it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).with_name("playground")
INDEX = "index.html"
FILES = (
    "answer.js", "api.js", "base.css", "bench.js", "chat.js", "connection.js", "curl.js", "dom.js", "export.js",
    "extract.js", "failures.js", "graph.js", "language.js", "layout.js", "lineage.js", "main.js", "metrics.js",
    "models.js", "parts.css", "reply.js", "spans.js", "summarize.js", "tabs.js", "texts_en.js", "texts_zh.js",
    "tokens.js", "translate.js",
)  # fmt: skip
# What is answered without a key.
PLAYGROUND_PATHS = ("/", *(f"/playground/{name}" for name in FILES))
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# The page runs its own files and nothing else: what might be slipped into it is not run, and nobody frames it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A browser asks each time whether its copy is still right: files of two versions are never mixed.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, {**HEADERS, "Content-Type": _TYPES[path.suffix], "ETag": tag})

    def answer(self, request: Request) -> Response:
        """Returns the file, or 304 to a browser that has it."""
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.headers["ETag"] in known or "*" in known:
            return Response(status_code=304, headers={k: v for k, v in self.headers.items() if k != "Content-Type"})
        return Response(self.content, headers=self.headers)


def add_playground(api: FastAPI) -> None:
    """Adds the routes of the page, which ``PLAYGROUND_PATHS`` lists; its files are read now.

    Only the names of the list are answered: no path of a request ever reaches the file system.
    """
    index = _File.read(FOLDER / INDEX)
    files = {name: _File.read(FOLDER / name) for name in FILES}

    @api.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return index.answer(request)

    @api.get("/playground/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)
