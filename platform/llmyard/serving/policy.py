"""What may be asked and answered: a policy looks at every text that comes in and goes out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

from llmyard.generation.engine import Delta
from llmyard.serving.refusals import Refused
from llmyard.text.config import Toxicity

_HELD = 48  # characters that are held back while an answer is written: a word that is refused is not shown
_LOOKED = 400  # characters before them that are looked at again


class Policy(Protocol):
    """Says of a text whether it may pass. Policies are asked in turn; the first that has a reason decides."""

    def objection(self, text: str) -> str | None:
        """Returns why a text may not pass, in words for who asked; None where it may."""


class HarmfulWords:
    """Lets no text pass in which words of block lists stand more densely than allowed.

    A list finds words, not what is meant: insults without such words pass, and quotations may not.

    Args:
        config: The lists, of both languages, and the density that is allowed.
    """

    def __init__(self, config: Toxicity) -> None:
        self._config = config

    def objection(self, text: str) -> str | None:
        """Returns a reason that does not repeat the words."""
        from llmyard.evaluation.harm import toxic

        return "it holds words that this endpoint neither takes nor writes" if toxic([text], self._config)[0] else None


def check_asked(policies: Sequence[Policy], texts: Sequence[str]) -> None:
    """Refuses with 400 what a policy objects to."""
    for text in texts:
        for policy in policies:
            reason = policy.objection(text)
            if reason is not None:
                raise Refused(400, f"the request is refused: {reason}", code="content_filter")


async def passed(deltas: AsyncGenerator[Delta], policies: Sequence[Policy]) -> AsyncGenerator[Delta]:
    """Yields an answer up to where a policy objects; it then ends with ``content_filter``, and the work stops.

    The last characters are held back until what follows is known.
    """
    shown = held = ""
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            held += delta.text
            ends = delta.finish is not None
            if any(policy.objection(shown[-_LOOKED:] + held) for policy in policies) and held:
                yield Delta(delta.token_ids, "", "content_filter", delta.likely)
                return
            kept = 0 if ends else min(len(held), _HELD)
            now, held = held[: len(held) - kept], held[len(held) - kept :]
            shown += now
            yield replace(delta, text=now)
