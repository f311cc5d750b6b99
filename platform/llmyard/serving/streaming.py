"""Answers as server-sent events, in OpenAI's chunks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Protocol

import orjson
from fastapi.responses import StreamingResponse

from llmyard.core.errors import LlmyardError
from llmyard.generation.engine import Delta
from llmyard.generation.model import Model
from llmyard.serving.openai_protocol import CompletionLogprobs
from llmyard.serving.protocol import Usage, shown
from llmyard.serving.refusals import Refused, server_error

_log = logging.getLogger(__name__)
Answer = AsyncGenerator[Delta]


class Chunks(Protocol):
    """Makes chunks of pieces of answers.

    Attributes:
        head: What every chunk begins with.
        before: What stands before the text in the entry of a piece that is nothing but text.
        behind: What stands behind it.
    """

    head: dict[str, Any]
    before: bytes
    behind: bytes

    def choice(self, index: int, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """Returns a piece of an answer as the entry of ``choices``."""

    def passed(self, index: int, delta: Delta) -> None:
        """Takes note of a piece that was told as nothing but text."""


def head_of(kind: str, prefix: str, model: Model) -> dict[str, Any]:
    """Returns what an answer begins with: its id, kind, time and model."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model.name}


class ChatChunks:
    """Chunks of a reply.

    Args:
        model: That writes.
    """

    before, behind = b'"delta":{"content":', b'},"logprobs":null,"finish_reason":null}'

    def __init__(self, model: Model) -> None:
        self.head = head_of("chat.completion.chunk", "chatcmpl", model)
        self._tokenizer = model.tokenizer

    def choice(self, index: int, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """Returns a piece of a reply; the first one names who speaks."""
        said = {"role": "assistant", "content": delta.text} if is_first else {"content": delta.text}
        likely = [shown(each, self._tokenizer).model_dump() for each in delta.likely]
        logprobs = {"content": likely} if likely else None
        return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": delta.finish}

    def passed(self, index: int, delta: Delta) -> None:
        """Nothing is kept of a piece."""


class CompletionChunks:
    """Chunks of continuations.

    Args:
        model: That writes.
    """

    before, behind = b'"text":', b',"logprobs":null,"finish_reason":null}'

    def __init__(self, model: Model) -> None:
        self.head = head_of("text_completion", "cmpl", model)
        self._tokenizer = model.tokenizer
        self._shown: dict[int, int] = {}

    def choice(self, index: int, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """Returns a piece of a continuation."""
        offset = self._shown.get(index, 0)
        self._shown[index] = offset + len(delta.text)
        logprobs = completion_logprobs(delta, offset, self._tokenizer) if delta.likely else None
        told = None if logprobs is None else logprobs.model_dump()
        return {"index": index, "text": delta.text, "logprobs": told, "finish_reason": delta.finish}

    def passed(self, index: int, delta: Delta) -> None:
        """Counts the characters, for the places of tokens that are told of later."""
        self._shown[index] = self._shown.get(index, 0) + len(delta.text)


def completion_logprobs(answer: Any, offset: int, tokenizer: Any) -> CompletionLogprobs:
    """Returns how likely tokens were, as the completions route tells it.

    Args:
        answer: A piece of an answer, or all of it: ``likely`` of its tokens.
        offset: Characters before it.
        tokenizer: Of the model.
    """
    told = [shown(each, tokenizer) for each in answer.likely]
    offsets = [offset]
    for each in told:
        offsets.append(offsets[-1] + len(each.token))
    return CompletionLogprobs(
        tokens=[each.token for each in told],
        token_logprobs=[each.logprob for each in told],
        top_logprobs=[{one.token: one.logprob for one in each.top_logprobs} for each in told],
        text_offset=offsets[:-1],
    )


async def streamed(chunks: Chunks, answers: Sequence[Answer], prompt_tokens: int | None) -> StreamingResponse:
    """Returns answers as a stream of events, which ends in ``[DONE]`` where all of them are whole.

    The first pieces are awaited here, so that a refusal still becomes an error status.

    Args:
        chunks: Of the answers.
        answers: Written at the same time.
        prompt_tokens: A last chunk counts what was read and written; None leaves it out.
    """
    begun = await asyncio.gather(*(anext(answer) for answer in answers), return_exceptions=True)
    failed = [each for each in begun if isinstance(each, BaseException)]
    if failed:
        for answer in answers:
            await answer.aclose()
        raise failed[0]
    firsts = [each for each in begun if isinstance(each, Delta)]
    events = _events(chunks, firsts, answers, prompt_tokens)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    chunks: Chunks, firsts: Sequence[Delta], answers: Sequence[Answer], prompt_tokens: int | None
) -> AsyncIterator[bytes]:
    """Yields events; a stream that broke ends in an error and has no ``[DONE]``."""
    counts = prompt_tokens is not None
    written = 0
    head = b"data: " + orjson.dumps(chunks.head)[:-1] + b',"choices":['
    tail = b'],"usage":null}\n\n' if counts else b"]}\n\n"
    plain = [head + b'{"index":%d,' % index + chunks.before for index in range(len(answers))]
    plain_end = chunks.behind + tail

    def chunk(index: int, delta: Delta, *, is_first: bool = False) -> bytes:
        if is_first or delta.finish is not None or delta.likely:
            return head + orjson.dumps(chunks.choice(index, delta, is_first=is_first)) + tail
        chunks.passed(index, delta)
        return plain[index] + orjson.dumps(delta.text) + plain_end  # most pieces are nothing but text

    async with contextlib.AsyncExitStack() as stack:
        # A reader that leaves closes the answers too, so that their places in the batch are free at once.
        for answer in answers:
            await stack.enter_async_context(contextlib.aclosing(answer))
        for index, first in enumerate(firsts):
            written += len(first.token_ids)
            yield chunk(index, first, is_first=True)
        try:
            if len(answers) == 1:
                async for delta in answers[0]:
                    written += len(delta.token_ids)
                    yield chunk(0, delta)
            else:
                async for index, delta in _merged(answers):
                    written += len(delta.token_ids)
                    yield chunk(index, delta)
        except Refused as refused:
            yield b"data: " + orjson.dumps(refused.body) + b"\n\n"
            return
        except LlmyardError as error:
            _log.error("a stream broke", exc_info=error)
            yield b"data: " + orjson.dumps(server_error()) + b"\n\n"
            return
        if prompt_tokens is not None:
            usage = Usage.of(prompt_tokens, written).model_dump()
            yield b"data: " + orjson.dumps({**chunks.head, "choices": [], "usage": usage}) + b"\n\n"
        yield b"data: [DONE]\n\n"


async def _merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Delta]]:
    """Yields the pieces of several answers as they come."""
    queue: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue()

    async def read(index: int) -> None:
        try:
            async for delta in answers[index]:
                queue.put_nowait((index, delta))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    readers = [asyncio.create_task(read(index)) for index in range(len(answers))]
    try:
        left = len(readers)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
