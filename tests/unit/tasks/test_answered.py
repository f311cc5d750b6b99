"""Records that come without answers become training examples by the answers of a model, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.tasks.answered import ASKED, completed, questions
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import (
    Classification,
    Dialogue,
    Instruction,
    KnowledgeGraph,
    QuestionAnswering,
    RelationClassification,
    Summarization,
    Translation,
)
from llmyard.tasks.task import Annotation, BadExample, Choice, Entity

TALK = [
    {"role": "user", "content": "订一张桌子"},
    {"role": "assistant", "content": "几位？"},
    {"role": "user", "content": "四位"},
]
MARKED = {
    "text": "马洛住在科拉镇。",
    "subject": {"text": "马洛", "start": 0, "end": 2},
    "object": {"text": "科拉镇", "start": 4, "end": 7},
}
CASES: list[tuple[Any, str, Any, list[Any], dict[str, Any]]] = [
    (Translation(), "transformer", {"source": "你好"}, [" Hello "], {"target_language": "en", "target": "Hello"}),
    (Translation(), "transformer", {"source": "Hello"}, ["你好"], {"target_language": "zh", "source_language": "en"}),
    (Summarization(), "transformer", {"text": "很长的文字。"}, ["短。"], {"summary": "短。", "language": "zh"}),
    (
        QuestionAnswering(), "bert", {"question": "谁？", "context": "马洛来了。"}, ["马洛"],
        {"answers": [{"text": "马洛", "start": 0}], "language": "zh"},
    ),
    (QuestionAnswering(), "transformer", {"question": "Who?", "context": "Nobody."}, [""], {"answers": []}),
    (
        Dialogue(), "transformer", {"messages": TALK}, ["好的"],
        {"messages": [*TALK, {"role": "assistant", "content": "好的"}]},
    ),
    (
        Instruction(), "gpt2", {"messages": [{"role": "user", "content": "Hi"}]}, ["Hi!"],
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi!"}]},
    ),
    (
        Dialogue(slots=True), "transformer", {"messages": TALK}, [{"what": "桌子"}, {"what": "桌子", "people": "四"}],
        {"states": [{"what": "桌子"}, {"what": "桌子", "people": "四"}]},
    ),
    (
        KnowledgeGraph(), "bert", {"text": "马洛住在科拉镇。"},
        [
            Annotation(
                (Entity("马洛", "person", 0, 2), Entity("科拉镇", "place", 4, 7), Entity("无", "person", -1, 0)),
                (("马洛", "lives_in", "科拉镇"), ("无", "lives_in", "科拉镇")),
            )
        ],
        {"triples": [{"subject": "马洛", "relation": "lives_in", "object": "科拉镇"}]},
    ),
    (RelationClassification(), "bert", MARKED, [Choice("lives_in")], {"relation": "lives_in"}),
    (Classification(), "bert", {"text": "今天下雨"}, [Choice("天气", {"天气": 0.9})], {"label": "天气"}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "family", "record", "predictions", "wanted"), CASES)
def test_a_record_with_a_models_answer_is_an_example(
    config: Any, family: str, record: Any, predictions: list[Any], wanted: dict[str, Any]
) -> None:
    task = task_of(config, family)
    assert len(questions(record, task)) == len(predictions)
    found = completed(record, task, predictions)
    assert wanted.items() <= found.items()
    assert task.check(found) == found


def test_answers_that_a_record_holds_are_not_looked_at() -> None:
    task = task_of(QuestionAnswering(), "bert")
    held = {"question": "谁？", "context": "马洛来了。", "answers": [{"text": "wrong", "start": 99}]}
    assert questions(held, task)[0]["answers"] == []
    assert completed(held, task, ["马洛"])["answers"] == [{"text": "马洛", "start": 0}]


@pytest.mark.parametrize(
    ("config", "record", "predictions"),
    [
        (Translation(), {"source": "你好"}, [" "]),
        (KnowledgeGraph(), {"text": "马洛来了。"}, [None]),
        (Summarization(), {"text": "文字。"}, [""]),
        (Dialogue(), {"messages": TALK}, [" \n"]),
        (Classification(), {"text": "文字"}, [Choice("")]),
    ],
)
def test_answers_that_are_none_are_told(config: Any, record: Any, predictions: list[Any]) -> None:
    with pytest.raises(BadExample):
        completed(record, task_of(config, "transformer"), predictions)


@pytest.mark.parametrize("record", [{}, {"source": 3}, {"messages": TALK[:2]}, {"text": ""}])
def test_records_that_ask_nothing_are_told(record: Any) -> None:
    for config in (Translation(), Dialogue(), Summarization(), QuestionAnswering()):
        with pytest.raises(BadExample):
            questions(record, task_of(config, "transformer"))


def test_every_task_that_writes_or_labels_one_thing_can_be_asked() -> None:
    from typing import get_args

    from llmyard.tasks.config import Task

    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Task)[0])}
    assert kinds - set(ASKED) == {"preference"}  # which compares two given replies
