"""A split's answers scored: figures with intervals, beside a method that learns little, and the errors sorted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmyard.core.compiled import I64
from llmyard.metrics.calibration import reliability
from llmyard.metrics.measure import Measure, values_of
from llmyard.metrics.significance import Interval, bootstrap, paired_bootstrap
from llmyard.tasks.open_questions import HOME
from llmyard.tasks.task import Choice, Record, Task

RIGHT = "right"
_ASKED = (("question", "context"), ("query", "text"))  # what is asked, and the text it is asked about
_SHOWN = 5  # examples of each kind of error
_LONGEST = 600  # characters of a shown text


@dataclass(frozen=True, slots=True)
class Answered:
    """A case with its answer.

    Attributes:
        record: As asked, with the right answer.
        answer: As :meth:`llmyard.tasks.task.Task.prediction` takes it.
        is_refused: Whether a model behind a URL did not take the case: it has an empty answer, which counts.
    """

    record: Record
    answer: Any
    is_refused: bool = False


def scored(
    task: Task, answered: Sequence[Answered], train: Sequence[Record], places: I64 | None = None
) -> dict[str, Any]:
    """Returns what a report says of a split, ready for JSON.

    Args:
        task: Of the model.
        answered: Of the split.
        train: What the baseline may learn from.
        places: The cluster of each case; None: as the records tell (:func:`clusters`).
    """
    records = [each.record for each in answered]
    predictions = [task.prediction(each.record, each.answer) for each in answered]
    places = clusters(records) if places is None else places
    measures = by_cluster(task.measures(predictions, records), places)
    name, naive = task.baseline(train, records)
    floor = by_cluster(task.measures(naive, records), places)
    refused = sum(each.is_refused for each in answered) / max(1, len(answered))
    return {
        "examples": len(records),
        "metrics": values_of(measures) | task.figures(predictions, records) | ({"refused": refused} if refused else {}),
        "intervals": {name: _ends(interval) for name, interval in intervals(measures).items()},
        "baseline": values_of(floor),
        "baseline_name": name,
        "against_baseline": compared(measures, floor, task.metric),
        "key_metric": task.metric,
        "reliability": reliability_of(task, predictions, records),
        "errors": errors(task, predictions, records, [each.answer for each in answered]),
    }


def against(
    name: str, task: Task, answered: Sequence[Answered], other: Task, others: Sequence[Answered], places: I64
) -> dict[str, Any]:
    """Returns the figures of other answers to the same examples, under ``name``, and by how much the first ones are
    better, under ``against_`` and the name.

    Args:
        name: Of the others.
        task: Of the first.
        answered: The first.
        other: Task of the others.
        others: The others, in the same order.
        places: The cluster of each example.
    """
    said = [task.prediction(each.record, each.answer) for each in answered]
    mine = by_cluster(task.measures(said, _records(answered)), places)
    said = [other.prediction(each.record, each.answer) for each in others]
    theirs = by_cluster(other.measures(said, _records(others)), places)
    differences = {figure: compared(mine, theirs, figure) for figure in mine}
    return {
        name: values_of(theirs),
        f"against_{name}": {figure: each for figure, each in differences.items() if each is not None},
    }


def clusters(records: Sequence[Record]) -> I64:
    """Returns for each case the number of the dialogue it is a turn of, or of the text it is asked about: such cases
    are alike, so intervals and tests draw them together (Cameron et al. 2008).
    """
    keys = []
    for at, record in enumerate(records):
        turns = str(record.get("id", "")).rpartition("#")[0] if "messages" in record else ""
        asked = next((field for question, field in _ASKED if record.get(question)), "")
        # Of a question that reads what was found for it, the text is the one that it came with, if any.
        keys.append(turns or str(record.get(HOME, record.get(asked)) or "") or f"#{at}")
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def by_cluster(measures: Mapping[str, Measure], places: I64) -> dict[str, Measure]:
    """Returns measures of as many rows as there are clusters, each the sum of its cases': the figures stay the same."""
    count = int(places.max(initial=-1)) + 1
    if count == len(places):
        return dict(measures)
    found = {}
    for name, measure in measures.items():
        rows = np.zeros((count, measure.statistics.shape[1]))
        np.add.at(rows, places, measure.statistics)
        found[name] = Measure(rows, measure.figure)
    return found


def _records(answered: Sequence[Answered]) -> list[Record]:
    return [each.record for each in answered]


def reliability_of(task: Task, predictions: Sequence[Any], records: Sequence[Record]) -> list[dict[str, float]]:
    """Returns how often labels of a confidence are right, by bins; nothing of a model that gives no probabilities."""
    sure = [max(each.shares.values()) for each in predictions if isinstance(each, Choice) and each.shares]
    if len(sure) < len(predictions):
        return []
    right = [task.bucket(each, record) == RIGHT for each, record in zip(predictions, records, strict=True)]
    return [
        {"count": each.count, "confidence": each.confidence, "accuracy": each.accuracy}
        for each in reliability(sure, right)
    ]


def intervals(measures: Mapping[str, Measure]) -> dict[str, Interval]:
    """Returns the 95 % interval of each figure; nothing of fewer than two examples."""
    return {
        name: bootstrap(measure.statistics, measure.figure)
        for name, measure in measures.items()
        if len(measure.statistics) > 1
    }


def compared(first: Mapping[str, Measure], second: Mapping[str, Measure], name: str) -> dict[str, float] | None:
    """Returns the difference of two systems' figure on the same examples with its 95 % interval and p-value; None where
    there is nothing to compare.
    """
    one, other = first.get(name), second.get(name)
    if one is None or other is None or one.statistics.shape != other.statistics.shape or len(one.statistics) < 2:
        return None
    found = paired_bootstrap(one.statistics, other.statistics, one.figure)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p_value": found.p_value}


def errors(
    task: Task, predictions: Sequence[Any], records: Sequence[Record], answers: Sequence[Any]
) -> list[dict[str, Any]]:
    """Returns the kinds of error with how many there are and some examples each, the commonest first."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for at, (prediction, record) in enumerate(zip(predictions, records, strict=True)):
        kinds[task.bucket(prediction, record)].append(at)
    found = []
    for kind, places in sorted(kinds.items(), key=lambda each: (each[0] == RIGHT, -len(each[1]), each[0])):
        step = max(1, len(places) // _SHOWN)
        shown = [_shown(records[at], predictions[at]) for at in places[::step][:_SHOWN]]
        found.append({"kind": kind, "count": len(places), "share": len(places) / len(records), "examples": shown})
    return found


def _shown(record: Record, prediction: Any) -> dict[str, Any]:
    from dataclasses import asdict, is_dataclass

    said = asdict(prediction) if is_dataclass(prediction) and not isinstance(prediction, type) else prediction
    if isinstance(said, dict) and "shares" in said:
        best = sorted(said["shares"].items(), key=lambda each: -each[1])[:3]
        said = {"label": said["label"], "shares": {name: round(share, 3) for name, share in best}}
    return {"record": {key: _cut(value) for key, value in record.items()}, "said": _cut(said)}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]} …"
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST]} …"


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
