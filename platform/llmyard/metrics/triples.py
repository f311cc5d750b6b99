"""Precision, recall and F1 of extracted triples and entity spans, summed over documents before dividing (micro
average).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from llmyard.metrics.measure import refuse_unequal


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Shares from 0 to 1 and the counts behind them.

    The empty cases: with nothing predicted, precision is 1 when nothing was expected either and 0 otherwise; with
    nothing expected,
    recall is 1. So a model that rightly says nothing scores 1, and one that never says anything scores 0.
    """

    correct: int
    predicted: int
    expected: int

    @property
    def precision(self) -> float:
        """The share of the predictions that are right."""
        return self.correct / self.predicted if self.predicted else float(self.expected == 0)

    @property
    def recall(self) -> float:
        """The share of what was expected that was predicted."""
        return self.correct / self.expected if self.expected else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean, ``2 * correct / (predicted + expected)``; 1 when both are empty."""
        total = self.predicted + self.expected
        return 2 * self.correct / total if total else 1.0


def micro(predicted: Sequence[Iterable[Hashable]], expected: Sequence[Iterable[Hashable]]) -> PrecisionRecall:
    """The counts over all documents; within a document both sides are sets, so a repeated prediction counts once.

    Raises:
        DataError: No documents, or another number of expected ones.
    """
    refuse_unequal(predicted, expected)
    pairs = [(set(p), set(e)) for p, e in zip(predicted, expected, strict=True)]
    return PrecisionRecall(
        sum(len(p & e) for p, e in pairs), sum(len(p) for p, _ in pairs), sum(len(e) for _, e in pairs)
    )
