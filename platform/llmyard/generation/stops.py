"""Answers that end before a given text."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

from llmyard.generation.engine import Delta


def until(deltas: AsyncGenerator[Delta], stops: Sequence[str]) -> AsyncGenerator[Delta]:
    """Returns an answer up to the first of some texts, which is not part of it; the work stops there.

    A text that may be the beginning of a stop is held back until the next piece tells.
    """
    return _until(deltas, stops) if stops else deltas


async def _until(deltas: AsyncGenerator[Delta], stops: Sequence[str]) -> AsyncGenerator[Delta]:
    held = ""
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            held += delta.text
            found = [at for stop in stops if (at := held.find(stop)) >= 0]
            if found:
                yield Delta(delta.token_ids, held[: min(found)], "stop", delta.likely)
                return
            kept = 0 if delta.finish else max(_begun(held, stop) for stop in stops)
            shown, held = held[: len(held) - kept], held[len(held) - kept :]
            yield Delta(delta.token_ids, shown, delta.finish, delta.likely)


def _begun(text: str, stop: str) -> int:
    """Returns how many characters of a stop the text's end may be."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
