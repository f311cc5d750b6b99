"""A new version that answers a share of the requests, and is left when it does worse than the one beside it."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from llmyard.evaluation.harm import share_interval
from llmyard.generation.model import Model
from llmyard.serving.config import Canary

_log = logging.getLogger(__name__)
KEPT = 500  # requests that are looked at, the last ones


@dataclass
class Seen:
    """What became of the last requests to one version.

    Attributes:
        failed: Whether each failed, by a fault of ours.
        seconds: That a token of each took, of those that did not.
    """

    failed: deque[bool] = field(default_factory=lambda: deque(maxlen=KEPT))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, seconds: float, failed: bool) -> None:
        """Takes note of a request."""
        self.failed.append(failed)
        if not failed:
            self.seconds.append(seconds)


def objection(config: Canary, canary: Seen, champion: Seen) -> str | None:
    """Returns why a new version is left, None where nothing is to be said against it.

    It is left where more of its requests fail than of the old one's, beyond what is allowed and beyond chance (the
    lower end of the 95 % score interval counts), or where its tokens take so much longer.

    Args:
        config: What is allowed.
        canary: Of the new version.
        champion: Of the old one.
    """
    if len(canary.failed) < config.least_requests:
        return None
    failures = share_interval(sum(canary.failed), len(canary.failed))
    usual = sum(champion.failed) / len(champion.failed) if champion.failed else 0.0
    if failures.low > usual + config.most_failing:
        return f"{failures.value:.1%} of its requests failed, {usual:.1%} of the others"
    if len(canary.seconds) >= config.least_requests and len(champion.seconds) >= config.least_requests:
        slower = median(canary.seconds) / max(1e-9, median(champion.seconds))
        if slower > config.most_slower:
            return f"its tokens take {slower:.2f} times as long"
    return None


class Split:
    """Two versions under one name.

    Args:
        champion: That answers as a rule.
        canary: That answers a share.
        config: How large it is, and what is allowed.
        draw: Returns a number from 0 to 1.
    """

    def __init__(
        self, champion: Model, canary: Model, config: Canary, draw: Callable[[], float] = random.random
    ) -> None:
        self.champion, self.canary, self._config, self._draw = champion, canary, config, draw
        self._seen = {True: Seen(), False: Seen()}
        self.left_because: str | None = None

    @property
    def weight(self) -> float:
        """Share of the requests that the new version answers."""
        return 0.0 if self.left_because is not None else self._config.weight

    def choose(self) -> Model:
        """Returns the version that answers the next request."""
        return self.canary if self._draw() < self.weight else self.champion

    def note(self, *, of_canary: bool, seconds: float, failed: bool) -> None:
        """Takes note of a request, and leaves the new version where there is reason to."""
        self._seen[of_canary].note(seconds, failed)
        if self.left_because is None:
            self.left_because = objection(self._config, self._seen[True], self._seen[False])
            if self.left_because is not None:
                _log.error("%s is left: %s", self.canary.reference, self.left_because)
