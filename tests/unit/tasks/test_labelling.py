"""Labels of texts, of pairs and of entities in a text: what is read, learned and measured, for both forms of models."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Classification, RelationClassification
from llmyard.tasks.task import BadExample, Choice
from llmyard.tokens.config import BpeTokenizer
from llmyard.tokens.tokenizer import SEPARATOR, Tokenizer

FACTS: list[dict[str, Any]] = [
    {
        "id": "1", "text": "马洛住在科拉镇。", "relation": "lives_in",
        "subject": {"text": "马洛", "start": 0, "end": 2}, "object": {"text": "科拉镇", "start": 4, "end": 7},
    },
    {
        "id": "2", "text": "The engine drives the pump.", "relation": "unknown",
        "subject": {"text": "pump", "start": 22, "end": 26}, "object": {"text": "engine", "start": 4, "end": 10},
    },
]  # fmt: skip
TEXTS: list[dict[str, Any]] = [
    {"id": "1", "text": "很好看", "label": "good"},
    {"id": "2", "text": "a dull film", "label": "bad"},
    {"id": "3", "text": "is it", "text_pair": "the same", "label": "bad"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [record["text"] for record in (*FACTS, *TEXTS)] + ["lives_in unknown good bad the same pump engine"]
    return Tokenizer.train(texts * 3, BpeTokenizer(vocab_size=330, split_han=True))


def test_an_encoder_reads_the_text_with_its_entities_marked(tokenizer: Tokenizer) -> None:
    task = task_of(RelationClassification(), "bert")
    labels = task.labels([task.check(record) for record in FACTS])
    assert labels == {"classes": ["lives_in", "unknown"], "parts": ["2"]}
    for record, made in zip(FACTS, task.encode(FACTS, tokenizer, labels), strict=True):
        assert made is not None
        (example,) = made
        assert labels["classes"][example.pairs[0]] == record["relation"]
        for part, end in ((1, "subject"), (2, "object")):
            ids = [id_ for id_, of in zip(example.ids, example.labels or [], strict=True) if of == part]
            assert tokenizer.decode(ids).strip() == record[end]["text"]


def test_a_text_whose_entity_is_cut_away_is_left_out(tokenizer: Tokenizer) -> None:
    task = task_of(RelationClassification(max_tokens=8), "bert")
    labels = task_of(RelationClassification(), "bert").labels(FACTS)
    long = {**FACTS[1], "text": FACTS[1]["text"].replace("drives", "very " * 20 + "drives")}
    place = long["text"].index("pump")
    long["subject"] = {"text": "pump", "start": place, "end": place + 4}
    assert task.encode([task.check(long)], tokenizer, labels) == [None]


@pytest.mark.parametrize(
    ("config", "records", "label"), [(RelationClassification(), FACTS, "relation"), (Classification(), TEXTS, "label")]
)
def test_a_writer_writes_the_label(config: Any, records: Any, label: str, tokenizer: Tokenizer) -> None:
    task = task_of(config, "gpt2")
    assert task.labels(records) == {}
    for record, made in zip(records, task.encode(records, tokenizer, {}), strict=True):
        assert made is not None
        (example,) = made
        assert tokenizer.decode(example.ids[example.target_start : -1]) == record[label]
        assert example.ids[example.target_start - 1] == tokenizer.control(SEPARATOR)
        assert example.ids[: example.target_start] == task.prompt(record, tokenizer)
        assert task.prediction(record, f" {record[label]} ") == Choice(record[label])


def test_the_second_text_of_a_pair_is_marked(tokenizer: Tokenizer) -> None:
    task = task_of(Classification(), "bert")
    labels = task.labels(TEXTS)
    assert labels["parts"] == ["0", "1"]
    made = task.encode(TEXTS, tokenizer, labels)[2]
    assert made is not None
    second = [id_ for id_, part in zip(made[0].ids, made[0].labels or [], strict=True) if part == 1]
    assert tokenizer.decode(second).strip() == "the same"


def test_excluded_relations_count_as_misses_and_false_alarms_only() -> None:
    task = task_of(RelationClassification(excluded=("unknown",)), "bert")
    right = [Choice(record["relation"]) for record in FACTS]
    assert task.measures(right, FACTS)["micro_f1"].value == 1.0
    missed = task.measures([Choice("unknown"), Choice("unknown")], FACTS)
    assert missed["micro_f1"].value == 0.0
    assert missed["accuracy"].value == 0.5
    alarm = task.measures([Choice("lives_in"), Choice("lives_in")], FACTS)
    assert alarm["micro_f1"].value == pytest.approx(2 / 3)


def test_confidence_is_measured_where_there_is_some() -> None:
    task = task_of(Classification(), "bert")
    sure = [Choice("good", {"good": 0.9, "bad": 0.1}), Choice("bad", {"good": 0.1, "bad": 0.9})]
    found = task.measures(sure, TEXTS[:2])
    assert found["accuracy"].value == 1.0
    assert found["calibration_error"].value == pytest.approx(0.1)
    written = task_of(Classification(), "gpt2").measures([Choice("good"), Choice("splendid")], TEXTS[:2])
    assert written["invalid"].value == 0.5
    assert task.bucket(sure[0], TEXTS[1]) == "bad → good"
    assert task.bucket(sure[0], TEXTS[0]) == "right"


@pytest.mark.parametrize("change", [{"relation": ""}, {"subject": {"text": "马", "start": 1, "end": 2}}, {"text": 3}])
def test_relations_that_do_not_fit_their_text_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadExample) as caught:
        task_of(RelationClassification(), "bert").check({**FACTS[0], **change})
    assert caught.value.remedy
