"""How much an endpoint takes on at once: tokens that are to be read and written, of all requests together."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmyard.serving.refusals import Refused

_WINDOW_SECONDS = 20.0
_LONGEST_SECONDS = 60


class TokenBudget:
    """Admits requests while the tokens of those under way stay within a budget.

    A request counts what it reads and the most it may write: so long answers are not begun that would make all others
    wait, and who is refused is told at once, with the time after which there will be room.

    Args:
        most: Tokens of all requests under way. One request alone is always taken.
        now: Seconds.
    """

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self.taken = self.requests = 0
        self._released: deque[tuple[float, int]] = deque()

    @contextmanager
    def admitted(self, tokens: int) -> Iterator[None]:
        """Counts a request for the time of the block; refuses it with 429 where there is no room."""
        self.enter(tokens)
        try:
            yield
        finally:
            self.leave(tokens)

    def enter(self, tokens: int) -> None:
        """Counts a request from now on; refuses it with 429 where there is no room."""
        excess = self.taken + tokens - self._most
        if excess > 0 and self.requests:
            said = f"the endpoint is busy: {self.taken} of {self._most} tokens are under way, this asks for {tokens}"
            raise Refused(429, said, "rate_limit_error", "endpoint_busy", self.seconds_for(excess))
        self.taken += tokens
        self.requests += 1

    def leave(self, tokens: int) -> None:
        """Counts a request no longer."""
        self.taken -= tokens
        self.requests -= 1
        self._released.append((self._now(), tokens))

    def seconds_for(self, tokens: int) -> int:
        """Returns after how many seconds so many tokens will be free, going by the last ones; 1 to 60."""
        now = self._now()
        while self._released and self._released[0][0] < now - _WINDOW_SECONDS:
            self._released.popleft()
        freed = sum(count for _, count in self._released)
        if not freed:
            return 1
        since = max(1.0, now - self._released[0][0])
        return min(_LONGEST_SECONDS, max(1, math.ceil(tokens * since / freed)))
