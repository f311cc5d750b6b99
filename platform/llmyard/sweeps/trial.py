"""What is known of one trial of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from llmyard.sweeps.config import Objective

State = Literal["running", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Report:
    """The figures of a trial after some of its steps."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it.

    Attributes:
        number: From 0 on, in the order in which trials were proposed.
        values: What was set, by its path in the job; a dimension whose condition does not hold is left out.
        state: ``finished`` ran to its end; ``pruned`` was ended early because others did better, or because its figures
            were no numbers; ``failed`` ended with an error.
        reports: Its figures on the way, by growing steps.
        metrics: Its figures at the end; of a pruned one those of its last report.
        seconds: That it ran, over all its attempts.
        steps: That it trained.
        why: Of one that was pruned or failed: the reason.
        artifact: Reference of what it made; "" where nothing was kept.
        run: Its MLflow run.
    """

    number: int
    values: Mapping[str, Any]
    state: State = "running"
    reports: tuple[Report, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    why: str = ""
    artifact: str = ""
    run: str = ""

    def value(self, objective: Objective) -> float | None:
        """Returns its figure of an objective; None where it has none that is a number."""
        found = self.metrics.get(objective.metric)
        return found if found is not None and math.isfinite(found) else None

    def reported(self, step: int, metrics: Mapping[str, float]) -> Trial:
        """Returns it with figures after some steps; those it reported before for as many steps or more are dropped."""
        kept = tuple(each for each in self.reports if each.step < step)
        return replace(self, reports=(*kept, Report(step, dict(metrics))))

    def to_json(self) -> str:
        """Returns it as JSON, for :meth:`from_json`."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Trial:
        """Returns the trial that :meth:`to_json` wrote."""
        fields = json.loads(text)
        fields["reports"] = tuple(Report(**each) for each in fields["reports"])
        return cls(**fields)


def best_of(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """Returns the finished trial with the best figure, of equal ones the first; None where none has one."""
    found = [each for each in trials if each.state == "finished" and each.value(objective) is not None]
    return min(found, key=lambda each: (objective.cost(each.value(objective) or 0.0), each.number), default=None)


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Returns the finished trials than which no other is at least as good in all objectives and better in one (Pareto).

    Args:
        trials: All.
        objectives: One or more.
    """
    costs = {}
    for each in trials:
        values = [each.value(objective) for objective in objectives]
        if each.state == "finished" and all(value is not None for value in values):
            pairs = zip(objectives, values, strict=True)
            costs[each.number] = [objective.cost(value or 0.0) for objective, value in pairs]

    def is_beaten(own: list[float]) -> bool:
        return any(
            other != own and all(one <= two for one, two in zip(other, own, strict=True)) for other in costs.values()
        )

    return [each for each in trials if each.number in costs and not is_beaten(costs[each.number])]
