"""Whether a model is right as often as it says: reliability diagram, calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Numbers = Sequence[float] | F64

BINS = 15
_SUM_TOLERANCE = 1e-3  # float16 probabilities of some thousand classes sum to 1 within it


@dataclass(frozen=True, slots=True)
class Bin:
    """A point of a reliability diagram: examples whose confidence lies in (low, high].

    Attributes:
        low: Where the bin begins, 0 to 1; the first holds 0 too.
        high: Where it ends.
        count: Examples in it.
        confidence: Their mean confidence.
        accuracy: The share of them that are right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidences: Numbers, correct: Sequence[bool] | Numbers, bins: int = BINS) -> list[Bin]:
    """Returns the bins of a reliability diagram in rising order; bins without examples are left out.

    Args:
        confidences: The probability that the model gave to each of its guesses.
        correct: Whether the guess was right.
        bins: Of equal width.

    Raises:
        DataError: No examples, unequal numbers, or a confidence outside of 0 to 1.
    """
    sure, right = _pairs(confidences, correct)
    places, edges = _bins(sure, bins)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        low, high = float(edges[place]), float(edges[place + 1])
        found.append(Bin(low, high, int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean())))
    return found


def calibration_each(confidences: Numbers, correct: Sequence[bool] | Numbers, bins: int = BINS) -> F64:
    """Returns for each example right minus confidence, in the column of its bin, and last 1; (examples, bins + 1).

    Raises:
        DataError: As :func:`reliability`.
    """
    sure, right = _pairs(confidences, correct)
    rows = np.zeros((len(sure), bins + 1))
    rows[np.arange(len(sure)), _bins(sure, bins)[0]] = right - sure
    rows[:, -1] = 1
    return rows


def calibration_figure(sums: F64) -> F64:
    """Returns the calibration error of summed rows of :func:`calibration_each`; (..., bins + 1) to (...).

    It is the mean distance of accuracy and confidence over bins, each by its examples (Guo et al. 2017); 0 to 1.
    """
    return np.asarray(np.abs(sums[..., :-1]).sum(-1) / sums[..., -1])


def brier_each(probabilities: Sequence[Numbers] | F64, truths: Sequence[int] | I64) -> F64:
    """Returns each example's squared distance of probabilities and truth (Brier 1950), 0 to 2; (examples,).

    Args:
        probabilities: (examples, classes).
        truths: The place of each example's true class.

    Raises:
        DataError: No examples, unequal numbers, probabilities that do not sum to 1, or a class that is not there.
    """
    given, places = np.asarray(probabilities, np.float64), np.asarray(truths, np.int64)
    _refuse(len(given), len(places))
    _refuse_outside(given)
    classes = given.shape[1]
    if not ((places >= 0) & (places < classes)).all():
        raise DataError(f"a truth is outside of the {classes} classes", f"give places from 0 to {classes - 1}")
    if (off := np.abs(given.sum(1) - 1)).max() > _SUM_TOLERANCE:
        worst = int(off.argmax())
        raise DataError(
            f"the probabilities of example {worst} sum to {given[worst].sum():.4f}", "give those of a softmax"
        )
    wrong = given.copy()
    wrong[np.arange(len(places)), places] -= 1
    return np.asarray((wrong**2).sum(1))


def _bins(confidences: F64, bins: int) -> tuple[I64, F64]:
    if bins < 1:
        raise DataError(f"calibration over {bins} bins", "give one bin or more")
    edges = np.linspace(0, 1, bins + 1)
    # By the edges themselves: 0.7 * 10 is a little more than 7 and would fall into the wrong bin.
    return np.maximum(np.searchsorted(edges, confidences, side="left") - 1, 0), edges


def _pairs(confidences: Numbers, correct: Sequence[bool] | Numbers) -> tuple[F64, F64]:
    sure, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    _refuse(len(sure), len(right))
    _refuse_outside(sure)
    if not np.isin(right, (0, 1)).all():
        raise DataError("an example is neither right nor wrong", "give 1 or True for right, 0 or False for wrong")
    return sure, right


def _refuse(examples: int, truths: int) -> None:
    if not examples:
        raise DataError("there are no probabilities to be measured", "give one for every example")
    if examples != truths:
        raise DataError(f"{examples} probabilities do not pair up with {truths} truths", "give one for every example")


def _refuse_outside(probabilities: F64) -> None:
    outside = ~((probabilities >= 0) & (probabilities <= 1))  # not a number is outside too
    if outside.any():
        raise DataError(f"{probabilities[outside][0]} is no probability", "give numbers from 0 to 1")
