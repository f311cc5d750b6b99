"""How fast an engine answers, seen by those who ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.generation.engine import Engine, GenerateRequest
from llmyard.tasks.task import Marked


@dataclass(frozen=True)
class Timed:
    """One round of questions.

    Attributes:
        streams: That were asked at once.
        seconds: From the first question to the last answer.
        tokens: That were written; of a model that labels, that were read.
        first: Seconds to the first token of each answer; of a model that labels, as ``whole``.
        whole: Seconds to the end of each answer.
    """

    streams: int
    seconds: float
    tokens: int
    first: tuple[float, ...]
    whole: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def time_writing(engine: Engine, prompts: Sequence[Sequence[int]], streams: int, new_tokens: int) -> Timed:
    """Returns how fast prompts are answered, with ``streams`` of them under way at any time.

    Answers are held to ``new_tokens`` each, so that models that would say more or less do equal work.
    """
    return asyncio.run(_written(engine, prompts, streams, new_tokens))


async def _written(engine: Engine, prompts: Sequence[Sequence[int]], streams: int, new_tokens: int) -> Timed:
    waiting = iter(enumerate(prompts))
    first, whole, tokens = [], [], 0

    async def ask(own: Iterator[tuple[int, Sequence[int]]]) -> None:
        nonlocal tokens
        for number, prompt in own:
            began, heard = time.perf_counter(), None
            request = GenerateRequest(f"timed-{number}", prompt, new_tokens, min_new_tokens=new_tokens)
            async for delta in engine.generate(request):
                heard = heard or time.perf_counter()
                tokens += len(delta.token_ids)
            first.append((heard or time.perf_counter()) - began)
            whole.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask(waiting) for _ in range(min(streams, len(prompts)))))
    return Timed(streams, time.perf_counter() - began, tokens, tuple(first), tuple(whole))


def time_labelling(engine: Any, texts: Sequence[Marked], streams: int) -> Timed:
    """Returns how fast texts are labelled, ``streams`` of them at once."""
    classifies = engine.capabilities().classifies
    tokens = sum(len(ids) for ids in engine.tokenizer.encode_batch([each.text for each in texts]))
    whole = []
    began = time.perf_counter()
    for at in range(0, len(texts), streams):
        some, start = texts[at : at + streams], time.perf_counter()
        if classifies:
            engine.classify_batch(some)
        else:
            engine.annotate_batch([each.text for each in some])
        whole.append(time.perf_counter() - start)
    return Timed(streams, time.perf_counter() - began, tokens, tuple(whole), tuple(whole))
