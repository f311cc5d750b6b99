"""A figure over many examples that keeps what each example adds to it, so that intervals, comparisons and error lists
can be made of it: means, F1 over all examples, BLEU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError

F64 = npt.NDArray[np.float64]


def refuse_unequal(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    """Raises DataError when there is nothing to score or the two do not pair up."""
    if not hypotheses:
        raise DataError("there are no hypotheses to score", "give one hypothesis for every reference")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses do not pair up with {len(references)} references",
            "give one hypothesis for every reference",
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of the sum of what the examples add.

    Attributes:
        statistics: (N, K), a row an example. An example that the figure is not about has zeros.
        figure: From sums (..., K) to figures (...), as :mod:`llmyard.metrics.significance` takes it.
    """

    statistics: F64
    figure: Callable[[F64], F64]

    @property
    def value(self) -> float:
        """The figure over all examples."""
        return float(self.figure(self.statistics.sum(0)))


def mean(values: Sequence[float] | F64, chosen: Sequence[bool] | None = None) -> Measure:
    """Returns the mean of a number for each example; over the chosen ones only, where given."""
    numbers = np.asarray(values, np.float64)
    counted = np.ones(len(numbers)) if chosen is None else np.asarray(chosen, np.float64)
    _refuse_nothing(counted.sum())
    return Measure(np.stack([numbers * counted, counted], 1), _ratio)


def f1_of(right: Sequence[float], said: Sequence[float], wanted: Sequence[float]) -> Measure:
    """Returns the F1 of how much is right of what was said and of what was wanted, summed over all examples; 1 where
    nothing was wanted and nothing said.
    """
    return Measure(_columns(right, said, wanted), _f1)


def precision_of(right: Sequence[float], said: Sequence[float]) -> Measure:
    """Returns how much of what was said is right; 0 where nothing was said."""
    return Measure(_columns(right, said), _ratio)


def joined(measures: Sequence[Measure]) -> Measure:
    """Returns the plain mean of several figures over the same examples, such as one for each language."""
    _refuse_nothing(len(measures))
    ends = np.cumsum([each.statistics.shape[1] for each in measures])

    def figure(sums: F64) -> F64:
        parts = np.split(sums, ends[:-1], axis=-1)
        found = np.stack([each.figure(part) for each, part in zip(measures, parts, strict=True)])
        return np.asarray(found.mean(0))

    return Measure(np.concatenate([each.statistics for each in measures], 1), figure)


def spread(measure: Measure, chosen: Sequence[int], count: int) -> Measure:
    """Returns a figure over some of ``count`` examples as one over all of them, the others adding nothing.

    Args:
        measure: Over the chosen examples.
        chosen: Their places among all.
        count: Of all.
    """
    statistics = np.zeros((count, measure.statistics.shape[1]))
    statistics[list(chosen)] = measure.statistics
    return Measure(statistics, measure.figure)


def by_group(groups: Sequence[str], measures: Callable[[str, list[int]], Mapping[str, Measure]]) -> dict[str, Measure]:
    """Returns each figure for each group of examples as ``NAME_GROUP``, and the mean of the groups as ``NAME``.

    Args:
        groups: Of each example, such as its language.
        measures: From a group and the places of its examples to its figures.
    """
    found: dict[str, Measure] = {}
    names: dict[str, list[Measure]] = {}
    for group in sorted(set(groups)):
        chosen = [place for place, each in enumerate(groups) if each == group]
        for name, measure in measures(group, chosen).items():
            whole = spread(measure, chosen, len(groups))
            found[f"{name}_{group}"] = whole
            names.setdefault(name, []).append(whole)
    return found | {name: joined(each) for name, each in names.items()}


def values_of(measures: Mapping[str, Measure]) -> dict[str, float]:
    """Returns the figures alone."""
    return {name: measure.value for name, measure in measures.items()}


def _columns(*columns: Sequence[float]) -> F64:
    _refuse_nothing(len(columns[0]))
    return np.stack([np.asarray(column, np.float64) for column in columns], 1)


def _ratio(sums: F64) -> F64:
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def _f1(sums: F64) -> F64:
    both = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], both, out=np.ones(sums.shape[:-1]), where=both != 0)


def _refuse_nothing(count: float) -> None:
    if not count:
        raise DataError("there are no examples to be measured", "check the split and its limits")
