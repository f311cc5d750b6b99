"""An engine that takes on no more than an endpoint allows: keys' limits, room, time, and what may be said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from llmyard.core.errors import RequestError
from llmyard.generation.engine import Capabilities, Delta, Engine, GenerateRequest, Stats
from llmyard.serving.admission import TokenBudget
from llmyard.serving.policy import Policy, passed
from llmyard.serving.rates import Leases, Rate
from llmyard.serving.refusals import Refused
from llmyard.serving.watching import Answered, Counted, Meter, Unwatched, asking
from llmyard.tasks.task import Annotation, Choice, Marked

T = TypeVar("T")
BUDGET = 1 << 17  # tokens


@dataclass(frozen=True)
class Terms:
    """What an endpoint allows; all its engines share it.

    Attributes:
        budget: Of tokens under way.
        deadline_seconds: An answer that is not whole after so long is broken off.
        policies: Every answer is shown to them.
        meter: Where it is counted.
        leases: Of the keys' limits; None where none is held to any.
        rate_of: Returns what the key of a hash may ask for.
    """

    budget: TokenBudget = field(default_factory=lambda: TokenBudget(BUDGET))
    deadline_seconds: float = 120.0
    policies: Sequence[Policy] = ()
    meter: Meter = field(default_factory=Unwatched)
    leases: Leases | None = None
    rate_of: Callable[[str], Rate] = lambda _: Rate()


class GuardedEngine:
    """Answers as its engine does, within an endpoint's terms.

    Beside the engine's own errors its methods raise :class:`Refused`: 429 where a key has used up its limit or there is
    no room, before anything is written; 504 where an answer takes too long.

    Args:
        engine: That answers.
        name: Of the model.
        terms: Of the endpoint.
        note: Is told of each request how many seconds a token of it took, and whether it failed by a fault of ours.
        decode: Returns the text of a prompt, for traces that are to tell it.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        terms: Terms,
        note: Callable[[float, bool], None] | None = None,
        decode: Callable[[Sequence[int]], str] = lambda _: "",
    ) -> None:
        self._engine, self._name, self._terms, self._note, self._decode = engine, name, terms, note, decode

    def capabilities(self) -> Capabilities:
        """Returns what the model can do."""
        return self._engine.capabilities()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        """Yields the answer as it is written."""
        terms, read, asked = self._terms, len(request.prompt), time.monotonic()
        async with self._admitted(read + request.max_new_tokens) as used:
            trace, admitted = asking().trace, time.monotonic()
            heard: list[str] | None = [] if trace is not None and trace.texts else None
            begun: list[float] = []
            if trace is not None:
                request = replace(request, begun=lambda: begun.append(time.monotonic()))
            deltas = self._engine.generate(request)
            if terms.policies:
                deltas = passed(deltas, terms.policies)
            counted, reason = Counted(terms.meter, self._name, read, asking()), "aborted"
            # The engine ends it: an answer may be begun in one task and gone on with in another.
            loop = asyncio.get_running_loop()
            end = loop.time() + terms.deadline_seconds
            late = loop.call_at(end, self._engine.abort, request.id)
            try:
                async with contextlib.aclosing(deltas):
                    async for delta in deltas:
                        if delta.token_ids:
                            counted.take(len(delta.token_ids))
                        if heard is not None:
                            heard.append(delta.text)
                        if delta.finish is not None:
                            reason = delta.finish
                            if reason == "aborted" and loop.time() >= end:
                                raise self._too_late()
                        yield delta
            except Exception:
                reason = "error"
                raise
            finally:
                late.cancel()
                used.tokens = read + counted.tokens
                counted.end(reason)
                if trace is not None:
                    texts = None if heard is None else (self._decode(request.prompt), "".join(heard))
                    times = asked, admitted, begun[0] if begun else 0.0, counted.first
                    trace.wrote(Answered(self._name, request, *times, counted.tokens, reason, texts))

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of each text."""
        return await self._timed("annotate", lambda: self._engine.annotate(texts), texts)

    async def classify(self, texts: Sequence[Marked]) -> list[Choice]:
        """Returns the label of each text."""
        return await self._timed("classify", lambda: self._engine.classify(texts), [each.text for each in texts])

    async def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text."""
        return await self._timed("embeddings", lambda: self._engine.encode(texts), texts)

    def abort(self, request_id: str) -> None:
        """Ends a request."""
        self._engine.abort(request_id)

    def stats(self) -> Stats:
        """Returns counts for monitoring, as they are now."""
        return self._engine.stats()

    async def drain(self) -> None:
        """Takes no more requests and returns when those under way are answered."""
        await self._engine.drain()

    async def _timed(self, operation: str, work: Callable[[], Awaitable[T]], texts: Sequence[str]) -> T:
        """Returns what comes of reading texts; each counts as many tokens as it has characters."""
        asked, failed = time.monotonic(), True
        async with self._admitted(sum(map(len, texts))):
            try:
                found = await asyncio.wait_for(work(), self._terms.deadline_seconds)
                failed = False
                return found
            except TimeoutError:
                raise self._too_late() from None
            finally:
                trace = asking().trace
                if trace is not None:
                    trace.read(operation, self._name, len(texts), asked, failed=failed)

    def _too_late(self) -> Refused:
        said = f"the answer took more than {self._terms.deadline_seconds:g} seconds"
        return Refused(504, said, "server_error", "deadline_exceeded")

    @contextlib.asynccontextmanager
    async def _admitted(self, tokens: int) -> AsyncGenerator[_Used]:
        """Takes a request on for the time of the block; what it did not use is given back to its key."""
        terms, request = self._terms, asking()
        key, rate = request.key, terms.rate_of(request.key)
        if request.trace is not None:
            request.trace.asks(self._name)
        if terms.leases is not None:
            await terms.leases.take(key, rate, tokens)
        used, began = _Used(tokens), time.monotonic()
        try:
            with terms.budget.admitted(tokens):
                try:
                    yield used
                except Exception as error:
                    self._tell(began, used.tokens, error)
                    raise
                self._tell(began, used.tokens, None)
        finally:
            if terms.leases is not None:
                terms.leases.give_back(key, rate, tokens - used.tokens)

    def _tell(self, began: float, tokens: int, error: Exception | None) -> None:
        """Tells of a request that has ended; what its caller did wrong is no fault of the model."""
        if self._note is None or isinstance(error, RequestError):
            return
        self._note((time.monotonic() - began) / max(1, tokens), error is not None)


@dataclass(slots=True)
class _Used:
    tokens: int
