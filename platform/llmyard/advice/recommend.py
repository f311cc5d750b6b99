"""The answer: suggestions from best to worst, each with its settings, its reasons and its job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmyard.advice.candidates import Candidate, candidates
from llmyard.advice.jobs import job_of
from llmyard.advice.question import Question
from llmyard.advice.ranking import merit
from llmyard.advice.reasons import Reason, reasons

_MOST = 5
_OF_HUB = 3


@dataclass(frozen=True)
class Suggestion:
    """One way to do it.

    Attributes:
        candidate: Model, method, plan.
        merit: Its points.
        reasons: Why, by topic.
        job: As plain data.
    """

    candidate: Candidate
    merit: float
    reasons: tuple[Reason, ...]
    job: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's name, or its family with its size."""
        model = self.candidate.published
        return model.name if model is not None else f"{self.candidate.family} {short(self.candidate.shape.parameters)}"


def recommend(question: Question, data: str | None = None) -> list[Suggestion]:
    """Returns suggestions, the best first; at least one, whatever is asked.

    At most three are models of the hub, so that something that needs no download is among them. What does not fit into
    the machine's memory is left out, unless nothing fits: then the reasons say so.

    Args:
        question: What is asked.
        data: A file of the user's own, for the jobs.
    """
    found = candidates(question)
    fitting = [each for each in found if each.fits] or found
    ranked = sorted(((merit(each, question), each) for each in fitting), key=lambda pair: -pair[0])
    chosen: list[tuple[float, Candidate]] = []
    for points, candidate in ranked:
        of_hub = sum(each.start == "hub" for _, each in chosen)
        if len(chosen) < _MOST and (candidate.start != "hub" or of_hub < _OF_HUB):
            chosen.append((points, candidate))
    return [
        Suggestion(candidate, points, reasons(candidate, question), job_of(candidate, question, data))
        for points, candidate in chosen
    ]


def short(amount: float) -> str:
    """Returns a large number as people say it: 1.1B, 350M, 8K."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if amount >= limit:
            return f"{amount / limit:.3g}{unit}"
    return f"{amount:.0f}"
