"""Requests under way in the torch engine, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from llmyard.core.errors import LlmyardError
from llmyard.generation.constrained import Grammar
from llmyard.generation.control import Control
from llmyard.generation.engine import Delta, GenerateRequest, Likely
from llmyard.generation.text_stream import TextStream

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Sequenced:
    """A request under way, with the tokens written so far."""

    request: GenerateRequest
    emit: Callable[[Delta | LlmyardError], None]
    room: int
    stream: TextStream
    grammar: Grammar | None = None
    control: Control | None = None
    ends: frozenset[int] = frozenset()
    aborted: threading.Event = field(default_factory=threading.Event)
    ids: list[int] = field(default_factory=list)
    finished: bool = False
    likely: Likely | None = None  # of the token that is taken next


@dataclass(eq=False)
class Call:
    """Work for the computing thread that is not generation."""

    run: Callable[[], Any]
    future: Future[Any]


def nucleus(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    """Returns probabilities without the unlikeliest ones that the rest, ``top_p`` of all, does not need."""
    if top_p >= 1:
        return shares
    ranked, order = shares.sort(descending=True)
    return shares.index_fill(0, order[ranked.cumsum(0) - ranked >= top_p], 0.0)


def likely_of(logits_V: torch.Tensor, top: int) -> Callable[[int], Likely]:
    """Returns what tells of a token how likely it was, as the logits (V) are now: they may be changed afterwards.

    Args:
        logits_V: Of the token's place.
        top: How many of the likeliest are named.
    """
    logs_V = logits_V.float().log_softmax(-1)
    best = logs_V.topk(min(top, len(logs_V)))
    named = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return lambda token: Likely(token, float(logs_V[token]), named)


Deltas = asyncio.Queue[Delta | LlmyardError]


class Outbox:
    """Carries pieces from the thread that computes into the loops of their readers: those of one step together, for
    waking a loop costs more than a piece.
    """

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, list[tuple[Deltas, Delta | LlmyardError]]] | None = None

    def post(self, loop: asyncio.AbstractEventLoop, deltas: Deltas, delta: Delta | LlmyardError) -> None:
        """Hands a piece to its reader, now or with the others of a step."""
        if self._held is None:
            _deliver(loop, [(deltas, delta)])
        else:
            self._held.setdefault(loop, []).append((deltas, delta))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Holds back what is posted inside the block until its end."""
        self._held = {}
        try:
            yield
        finally:
            held, self._held = self._held, None
            for loop, pieces in held.items():
                _deliver(loop, pieces)


def _deliver(loop: asyncio.AbstractEventLoop, pieces: list[tuple[Deltas, Delta | LlmyardError]]) -> None:
    def put() -> None:
        for deltas, delta in pieces:
            deltas.put_nowait(delta)

    with suppress(RuntimeError):  # the readers' loop has ended: nobody waits for this
        loop.call_soon_threadsafe(put)


def run_call(call: Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return  # its caller has left
    try:
        call.future.set_result(call.run())
    except Exception as error:
        call.future.set_exception(failure_of(error))


def failure_of(error: Exception) -> LlmyardError:
    """Returns the error that callers get: our own as it is, any other with its trace in the log only."""
    if isinstance(error, LlmyardError):
        return error
    _log.error("the model failed", exc_info=error)
    return LlmyardError(f"the engine failed: {type(error).__name__}: {error}", "see the log of the replica")
