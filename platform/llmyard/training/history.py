"""What a run was like, small enough to travel with its checkpoints: curves, evaluations, events, samples, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST_POINTS = 1000
MOST_ROWS = 200


class Point(NamedTuple):
    """Some steps in a row.

    Attributes:
        step: The last of them.
        logged: How many of them were logged.
        loss: Their mean; ``least`` and ``most`` are its bounds.
        gradient_norm: The largest.
        learning_rate: Of the last.
        tokens_per_second: Of the last.
    """

    step: int
    logged: int
    loss: float
    least: float
    most: float
    gradient_norm: float
    learning_rate: float
    tokens_per_second: float

    def joined(self, later: Point) -> Point:
        """Returns both as one."""
        logged = self.logged + later.logged
        loss = (self.loss * self.logged + later.loss * later.logged) / logged
        return Point(
            later.step, logged, loss, min(self.least, later.least), max(self.most, later.most),
            max(self.gradient_norm, later.gradient_norm), later.learning_rate, later.tokens_per_second,
        )  # fmt: skip


class Event(NamedTuple):
    """Something that happened at a step.

    Attributes:
        kind: ``skip``, ``roll_back``, ``stop``, ``resumed``, ``hung`` or ``diagnosis``.
        what: For people.
    """

    step: int
    kind: str
    what: str


@dataclass
class History:
    """Of one run, through all its restarts. Never more than some thousand numbers, however long the run is.

    Attributes:
        points: The curves; when there are too many, two neighbours become one.
        evaluations: (step, figures of the validation).
        events: What went wrong, and restarts; the last ones.
        samples: (step, prompt, text) that the model wrote; thinned out when there are too many.
        layers: (step, statistic by layer), thinned out in the same way.
    """

    points: list[Point] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    samples: list[tuple[int, str, str]] = field(default_factory=list)
    layers: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    _stride: int = 1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step; one whose loss is not finite is an event, not a point."""
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return
        new = Point(step, 1, loss, loss, loss, norm, metrics["learning_rate"], metrics.get("tokens_per_second", 0.0))
        if self.points and self.points[-1].logged < self._stride:
            self.points[-1] = self.points[-1].joined(new)
            return
        self.points.append(new)
        if len(self.points) > MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            odd = self.points[-1:] if len(self.points) % 2 else []
            self.points = [one.joined(other) for one, other in pairs] + odd
            self._stride *= 2

    def evaluated(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a validation; those of a step that was evaluated before replace its."""
        self.evaluations = [each for each in self.evaluations if each[0] != step]
        self.evaluations = _thinned([*self.evaluations, (step, _finite(figures))])

    def happened(self, step: int, kind: str, what: str) -> None:
        """Takes an event."""
        self.events = [*self.events, Event(step, kind, what)][-MOST_ROWS:]

    def wrote(self, step: int, texts: list[tuple[str, str]]) -> None:
        """Takes (prompt, text) that the model wrote."""
        rounds = _thinned(list(dict.fromkeys([*(each[0] for each in self.samples), step])), MOST_ROWS // 8)
        rows = [*self.samples, *((step, prompt, text) for prompt, text in texts)]
        self.samples = [row for row in rows if row[0] in rounds]

    def looked(self, step: int, statistics: Mapping[str, float]) -> None:
        """Takes statistics of every layer."""
        self.layers = _thinned([*self.layers, (step, _finite(statistics))], MOST_ROWS // 8)

    def go_back(self, step: int) -> None:
        """Forgets the curves behind a step that the run goes back to, not what happened there."""
        self.points = [each for each in self.points if each.step <= step]
        self.evaluations = [each for each in self.evaluations if each[0] <= step]
        self.samples = [each for each in self.samples if each[0] <= step]
        self.layers = [each for each in self.layers if each[0] <= step]

    def state(self) -> dict[str, Any]:
        """Returns it as JSON keeps it."""
        points = [[_short(value) for value in each] for each in self.points]
        whole = {"stride": self._stride, "points": points, "events": self.events, "samples": self.samples}
        rounded = {
            name: [(step, {key: _short(value) for key, value in figures.items()}) for step, figures in rows]
            for name, rows in (("evaluations", self.evaluations), ("layers", self.layers))
        }
        return whole | rounded

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> History:
        """Returns what :meth:`state` gave; an empty one for an empty state."""
        if not state:
            return cls()
        return cls(
            [Point(*each) for each in state["points"]],
            [(step, dict(figures)) for step, figures in state["evaluations"]],
            [Event(*each) for each in state["events"]],
            [(step, prompt, text) for step, prompt, text in state["samples"]],
            [(step, dict(figures)) for step, figures in state["layers"]],
            state["stride"],
        )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: each for name, each in figures.items() if math.isfinite(each)}


def _thinned(rows: list[Any], most: int = MOST_ROWS) -> list[Any]:
    """Returns rows, every second one but the last left out where there are too many."""
    return rows if len(rows) <= most else [*rows[:-1:2], rows[-1]]


def _short(value: float) -> float:
    """Returns a number with six digits: curves need no more, and a mark holds thousands of them."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
