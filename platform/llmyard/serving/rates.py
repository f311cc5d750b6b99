"""How much each key may ask for: requests and tokens a minute, leased to replicas in portions.

A replica that has used up its portion asks for the next one; so a request costs no call to another process, and all
replicas together stay within the limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from llmyard.serving.refusals import Refused

MINUTE = 60.0
PORTION = 0.1  # of a minute's amount is leased at once: so much may lie unused at a replica


@dataclass(frozen=True, slots=True)
class Rate:
    """What a key may ask for in a minute; None: as much as it likes."""

    requests: int | None = None
    tokens: int | None = None

    def of(self, kind: str) -> int | None:
        """Returns the limit of ``requests`` or ``tokens``."""
        return self.requests if kind == "requests" else self.tokens


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Buckets:
    """What is left to each key, refilled with the time (token bucket); holds a minute's amount at most.

    Args:
        now: Seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def lease(self, key: str, kind: str, per_minute: int, wanted: int) -> tuple[int, float]:
        """Returns how much of a key's limit is handed out, and seconds until ``wanted`` can be, 0 if it was.

        Args:
            key: Its hash.
            kind: ``requests`` or ``tokens``.
            per_minute: Its limit.
            wanted: At least so much is needed; a portion is given where there is more, nothing where there is less.
        """
        now = self._now()
        bucket = self._buckets.setdefault((key, kind), _Bucket(float(per_minute), now))
        bucket.level = min(float(per_minute), bucket.level + (now - bucket.at) * per_minute / MINUTE)
        bucket.at = now
        need = min(wanted, per_minute)  # one that alone is more than a minute's amount takes all of it
        if bucket.level < need:
            return 0, (need - bucket.level) * MINUTE / per_minute
        given = min(int(bucket.level), max(need, int(PORTION * per_minute)))
        bucket.level -= given
        return given, 0.0


Lease = Callable[[str, str, int, int], Awaitable[tuple[int, float]]]


@dataclass
class Leases:
    """What this replica holds of the keys' limits.

    Attributes:
        lease: Asks for more, as :meth:`Buckets.lease` does.
    """

    lease: Lease
    _held: dict[tuple[str, str], int] = field(default_factory=dict)

    async def take(self, key: str, rate: Rate, tokens: int) -> None:
        """Takes a request and its tokens off what is held; refuses it with 429 where nothing is left.

        Args:
            key: Hash of the key.
            rate: Of the key.
            tokens: That are read, and may be written.
        """
        for kind, amount in (("requests", 1), ("tokens", tokens)):
            limit = rate.of(kind)
            if limit is None:
                continue
            amount = min(amount, limit)
            held = self._held.get((key, kind), 0)
            if held < amount:
                given, wait = await self.lease(key, kind, limit, amount - held)
                held = self._held.get((key, kind), 0) + given
            if held < amount:
                self._held[key, kind] = held
                said = f"this key may ask for {limit} {kind} a minute"
                raise Refused(429, said, "rate_limit_error", "rate_limit_exceeded", max(1, math.ceil(wait)))
            self._held[key, kind] = held - amount

    def give_back(self, key: str, rate: Rate, tokens: int) -> None:
        """Puts back tokens that a request was allowed and did not use."""
        if rate.tokens is not None and tokens > 0:
            self._held[key, "tokens"] = self._held.get((key, "tokens"), 0) + tokens
