"""Disturbed records: they fit their task as before, their answers stay, and what may not change does not."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from llmyard.core.errors import RequestError
from llmyard.sources.smallworld import TASKS, SmallWorld
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.disturbing import augmented, disturbed, perturbed
from llmyard.tasks.task import Record, Task
from llmyard.text.disturbances import Disturbance, Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
EVERYTHING = Disturbance(**dict.fromkeys(KINDS, 0.3), ways="all")
WORLD = SmallWorld("dev", seed=7)
ANSWERS = ("label", "relation", "triples", "target", "summary", "states", "chosen", "rejected", "query", "language")

CLASSIFICATION: Record = {
    "id": "c1",
    "text": "The children were happy because Marlo bought a beautiful bicycle.",
    "text_pair": "Somebody called Marlo is sad about the difficult journey.",
    "label": "no",
}
RELATION: Record = {
    "id": "r1",
    "text": "昨天，马洛先生因为非常高兴而购买了科拉镇的一栋漂亮房子。",
    "subject": {"text": "马洛", "type": "person", "start": 3, "end": 5},
    "object": {"text": "科拉镇的一栋漂亮房子", "start": 17, "end": 27},
    "relation": "buys",
}
WRITTEN: Record = {
    "id": "q1",
    "language": "en",
    "context": "The lawyer began to build a house in the city.",
    "question": "Did the lawyer build or purchase a house quickly?",
    "answers": [{"text": "build"}],
}
NONE: Record = {**WRITTEN, "id": "q2", "answers": []}
TWICE: Record = {
    "id": "q3",
    "language": "en",
    "context": "In the old city the clever lawyer lived. The old city was beautiful and the journey difficult.",
    "question": "Where did the clever lawyer live?",
    "answers": [{"text": "In the old city", "start": 0}, {"text": "the old city", "start": 3}],
}
STATES: Record = {
    "id": "d1",
    "messages": [
        {"role": "system", "content": "You help people to find a cheap hotel quickly."},
        {"role": "user", "content": "I want to find a Cheap hotel in the north, and the journey should be easy."},
        {"role": "assistant", "content": "Do you require a beautiful room?"},
        {"role": "user", "content": "Yes, a beautiful room for three friends please, because the children are happy."},
    ],
    "states": [{"price": "cheap", "area": "north"}, {"price": "cheap", "area": "north", "people": "three"}],
}
INSTRUCTION: Record = {
    "id": "i1",
    "messages": [
        {"role": "user", "content": "请告诉我，为什么《红楼梦》里的孩子们觉得非常高兴？"},
        {"role": "assistant", "content": "因为《红楼梦》里的孩子们得到了漂亮的礼物。"},
    ],
}
PREFERENCE: Record = {
    "id": "p1",
    "messages": [{"role": "user", "content": "Please explain quickly why the children were happy yesterday."}],
    "chosen": "They received a beautiful gift.",
    "rejected": "No idea.",
}
MADE: list[tuple[str, Record]] = [
    ("classification", CLASSIFICATION),
    ("relation_classification", RELATION),
    ("question_answering", WRITTEN),
    ("question_answering", NONE),
    ("question_answering", TWICE),
    ("dialogue", STATES),
    ("instruction", INSTRUCTION),
    ("preference", PREFERENCE),
]


def task(kind: str, record: Record) -> Task:
    options = {"slots": True} if "states" in record else {}
    config = TypeAdapter(TaskConfig).validate_python({"kind": kind, **options})
    return task_of(config, config.families[0])


def records() -> list[tuple[str, Record]]:
    return [*MADE, *((kind, WORLD.example(kind, "train", at)) for kind in TASKS for at in range(12))]


@pytest.mark.parametrize("config", [EVERYTHING, *(Disturbance(**{kind: 0.4}) for kind in KINDS)])
def test_disturbed_records_fit_and_keep_their_answers(config: Disturbance) -> None:
    changed = 0
    for kind, record in records():
        for number in (1, 2):
            found = disturbed(record, kind, config, number)
            if found is None:
                continue
            changed += 1
            checked = task(kind, record).check(found)
            assert checked["id"] == f"{record['id']}~{number}"
            assert found.keys() == record.keys()
            assert {name: value for name, value in found.items() if name in ANSWERS} == {
                name: value for name, value in record.items() if name in ANSWERS
            }
            assert [each["text"] for each in marked(found)] == [each["text"] for each in marked(record)]
            assert [each for each in found.get("messages", ()) if each["role"] != "user"] == [
                each for each in record.get("messages", ()) if each["role"] != "user"
            ]
            assert disturbed(record, kind, config, number) == found
    assert changed >= len(records()) / 2


def marked(record: Record) -> list[Any]:
    return [
        *record.get("answers", ()),
        *record.get("entities", ()),
        *(record[end] for end in ("subject", "object") if end in record),
    ]


def test_the_record_itself_is_left_as_it_was() -> None:
    for kind, record in records():
        before = repr(record)
        disturbed(record, kind, EVERYTHING, 1)
        assert repr(record) == before


def test_a_context_is_disturbed_only_where_answers_say_where_they_stand() -> None:
    for number in range(10):
        written, none, twice = (
            disturbed(each, "question_answering", EVERYTHING, number) for each in (WRITTEN, NONE, TWICE)
        )
        assert written is not None
        assert none is not None
        assert twice is not None
        assert written["context"] == WRITTEN["context"]
        assert written["question"] != WRITTEN["question"]
        assert "build" in written["question"]
        assert none["context"] != NONE["context"]
        assert twice["context"].count("the old city") + twice["context"].count("The old city") == 2


def test_values_of_slots_and_titles_are_protected() -> None:
    for number in range(10):
        found = disturbed(STATES, "dialogue", EVERYTHING, number)
        assert found is not None
        for turn, values in ((1, ("Cheap", "north")), (3, ("three",))):
            assert found["messages"][turn]["content"] != STATES["messages"][turn]["content"]
            assert all(value in found["messages"][turn]["content"] for value in values)
        told = disturbed(INSTRUCTION, "instruction", EVERYTHING, number)
        assert told is not None
        assert "红楼梦" in told["messages"][0]["content"]


def test_names_that_both_texts_hold_stay() -> None:
    for number in range(10):
        found = disturbed(CLASSIFICATION, "classification", EVERYTHING, number)
        assert found is not None
        assert "Marlo" in found["text"]
        assert "Marlo" in found["text_pair"]


def test_a_record_with_nothing_to_change_has_no_copy() -> None:
    record = {"id": "x", "text": "11 22", "label": "a"}
    assert disturbed(record, "classification", Disturbance(synonyms=1, typos=1), 1) is None
    assert list(augmented([record], "classification", Disturbance(typos=1), 3)) == [record]
    assert list(perturbed([record], "classification", Disturbance(typos=1))) == [record]


def test_augmented_records_are_the_originals_and_different_copies() -> None:
    given = [WORLD.example("summarization", "train", at) for at in range(4)]
    made = list(augmented(given, "summarization", Disturbance(deletion=0.2, typos=0.2), 3))
    assert made[:4] == given
    assert [each["id"] for each in made[4:7]] == [f"{given[0]['id']}~{number}" for number in (1, 2, 3)]
    assert len({each["text"] for each in made}) == len(made) == 16
    # One word has two places to go: more than one copy would be the same again.
    short = {"id": "s", "text": "red wine", "label": "a"}
    copies = list(augmented([short], "classification", Disturbance(swap=1), 5))
    assert [each["text"] for each in copies] == ["red wine", "wine red"]


def test_perturbed_records_come_in_their_order() -> None:
    given = [WORLD.example("question_answering", "test", at) for at in range(20)]
    found = list(perturbed(iter(given), "question_answering", Disturbance(typos=0.3, homophones=0.1)))
    assert [each["id"].removesuffix("~0") for each in found] == [each["id"] for each in given]
    assert sum(one != two for one, two in zip(given, found, strict=True)) > 15


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(RequestError, match="'singing' cannot be disturbed"):
        disturbed(CLASSIFICATION, "singing", EVERYTHING, 1)


def test_evidence_of_a_copy_stands_where_it_says_and_gives_no_shelter_where_nothing_is_learned() -> None:
    fact = "In the old city the clever lawyer lived."
    record = {**TWICE, "evidence": [{"text": fact, "start": 0}]}
    copies = [each for each in augmented([record], "question_answering", EVERYTHING, 8) if each is not record]
    assert copies
    for copy in copies:
        (moved,) = copy["evidence"]
        assert copy["context"][moved["start"] :].startswith(fact)
        assert moved["text"] == fact
    (asked,) = perturbed([record], "question_answering", Disturbance(**dict.fromkeys(KINDS, 1.0), ways="all"))
    assert "clever lawyer lived" not in asked["context"]
