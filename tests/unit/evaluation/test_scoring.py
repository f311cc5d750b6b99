"""Intervals over what is independent: turns of one dialogue and questions about one text are drawn together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.evaluation.scoring import Answered, against, by_cluster, clusters, intervals, scored
from llmyard.metrics.measure import f1_of, mean
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import QuestionAnswering


def test_turns_of_a_dialogue_and_questions_about_a_text_belong_together() -> None:
    turns: list[dict[str, Any]] = [{"id": name, "messages": []} for name in ("a#1", "a#3", "b#1", "c")]
    assert clusters(turns).tolist() == [0, 0, 1, 2]
    asked: list[dict[str, Any]] = [{"id": str(at), "context": text, "question": "q"} for at, text in enumerate("xyx")]
    assert clusters(asked).tolist() == [0, 1, 0]
    alone: list[dict[str, Any]] = [{"id": "1", "text": "t"}, {"id": "1", "text": "t"}]
    assert clusters(alone).tolist() == [0, 1]
    assert clusters([]).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_figures_stay_the_same(rows: list[tuple[int, int, int]]) -> None:
    places = np.unique([row[0] for row in rows], return_inverse=True)[1]
    right = [min(row[1:]) for row in rows]
    measures = {"mean": mean(right), "f1": f1_of(right, [row[1] for row in rows], [row[2] for row in rows])}
    for name, each in by_cluster(measures, places).items():
        assert each.value == pytest.approx(measures[name].value)
        assert len(each.statistics) == len({row[0] for row in rows})


def test_equal_cases_of_few_clusters_say_less_than_as_many_independent_ones() -> None:
    values = [float(at % 2) for at in range(10) for _ in range(20)]  # ten clusters of twenty equal cases
    places = np.repeat(np.arange(10), 20)
    alone, together = (intervals(each)["m"] for each in ({"m": mean(values)}, by_cluster({"m": mean(values)}, places)))
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_reports_draw_questions_about_one_text_together() -> None:
    task = task_of(QuestionAnswering(), "gpt2")
    contexts = [f"Text {at} says yes." for at in range(4)]
    records = [
        {"id": f"{at}-{number}", "context": context, "question": f"What? {number}", "answers": [{"text": "yes"}]}
        for at, context in enumerate(contexts)
        for number in range(25)
    ]
    answered = [Answered({**record, "language": "en"}, "yes" if record["id"] < "2" else "no") for record in records]
    found = scored(task, answered, [each.record for each in answered])
    low, high = found["intervals"]["f1"]
    assert found["metrics"]["f1"] == 0.5
    assert (low, high) == (0.0, 1.0)  # of four texts two are right: of 100 questions it would be 0.4 to 0.6


def test_what_disturbance_costs_is_drawn_by_the_texts_as_they_were() -> None:
    """Each question's text is disturbed in its own way: the same text under four questions is no four texts."""
    task = task_of(QuestionAnswering(), "gpt2")
    plain = [
        {"id": f"{at}-{number}", "context": f"Text {at} says yes.", "question": f"What? {number}", "language": "en",
         "answers": [{"text": "yes"}]}
        for at in range(6) for number in range(20)
    ]  # fmt: skip
    changed = [{**record, "context": f"{record['context']} {number}"} for number, record in enumerate(plain)]
    worse = [Answered(record, "yes" if record["id"] < "3" else "no") for record in changed]
    better = [Answered(record, "yes") for record in plain]
    places = clusters(plain)
    assert len(set(clusters(changed).tolist())) == len(changed)
    cost = against("undisturbed", task, worse, task, better, places)["against_undisturbed"]["f1"]
    assert cost["difference"] == -0.5
    assert cost["low"] <= -5 / 6  # six texts, half of them lost: of 120 it would be -0.6
    low, high = scored(task, worse, plain, places)["intervals"]["f1"]
    assert high - low > 0.5
