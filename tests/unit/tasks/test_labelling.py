"""Labels of texts, of pairs and of entities in a text: what is read, learned and measured, for both forms of models."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.metrics import brier_score_loss

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


def test_brier_is_the_squared_distance_of_probabilities_and_truth() -> None:
    task = task_of(Classification(), "bert")
    wanted, classes = ["好", "bad", "差"], ["bad", "好", "差"]
    shares = [[0.2, 0.7, 0.1], [0.5, 0.1, 0.4], [0.6, 0.3, 0.1]]
    records = [{"text": "很好看", "label": label} for label in wanted]
    guesses = [
        Choice(max(classes, key=dict(zip(classes, row, strict=True)).__getitem__), dict(zip(classes, row, strict=True)))
        for row in shares
    ]
    found = task.measures(guesses, records)["brier"]
    by_hand = [0.04 + 0.09 + 0.01, 0.25 + 0.01 + 0.16, 0.36 + 0.09 + 0.81]
    assert found.statistics.tolist() == [[pytest.approx(each), 1] for each in by_hand]
    assert found.value == pytest.approx(sum(by_hand) / 3)
    assert found.value == pytest.approx(brier_score_loss(wanted, shares, labels=classes, scale_by_half=False))
    # As all labels alike would, and as saying the truth would.
    even = [Choice("bad", dict.fromkeys(classes, 1 / 3))] * 3
    assert task.measures(even, records)["brier"].value == pytest.approx(2 / 3)
    assert task.measures([Choice(label, {label: 1.0}) for label in wanted], records)["brier"].value == 0


def test_brier_of_a_label_that_the_model_does_not_know() -> None:
    task = task_of(Classification(), "bert")
    records = [{"text": "一般", "label": "中"}, {"text": "很好看", "label": "好"}]
    guesses = [Choice("好", {"好": 0.6, "bad": 0.4}), Choice("好", {"好": 0.9, "bad": 0.1})]
    found = task.measures(guesses, records)["brier"].value
    assert found == pytest.approx(((0.36 + 0.16 + 1) + (0.01 + 0.01)) / 2)
    theirs = brier_score_loss(
        ["中", "好"], [[0.4, 0.0, 0.6], [0.1, 0.0, 0.9]], labels=["bad", "中", "好"], scale_by_half=False
    )
    assert found == pytest.approx(theirs)


def test_brier_needs_the_probabilities_of_every_answer() -> None:
    task = task_of(Classification(), "bert")
    some = task.measures([Choice("good", {"good": 0.9, "bad": 0.1}), Choice("")], TEXTS[:2])
    assert "calibration_error" in some
    assert "brier" not in some
    assert "brier" not in task_of(Classification(), "gpt2").measures([Choice("good"), Choice("bad")], TEXTS[:2])


@pytest.mark.parametrize("change", [{"relation": ""}, {"subject": {"text": "马", "start": 1, "end": 2}}, {"text": 3}])
def test_relations_that_do_not_fit_their_text_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadExample) as caught:
        task_of(RelationClassification(), "bert").check({**FACTS[0], **change})
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["好的𠮷野家𠮷𠮷今天", "plain words only here"])
def test_what_is_read_ends_with_a_whole_character(text: str) -> None:
    """Where a character takes several tokens, a cut among them would read all of them again and be too long."""
    tokenizer = Tokenizer.train(["plain words only here 好的"] * 4, BpeTokenizer(vocab_size=300))
    for limit in range(8, len(tokenizer.encode(text)) + 2):
        task = task_of(Classification(max_tokens=limit), "bert")
        (marked,) = task.inputs({"text": text, "label": "a"}, tokenizer)
        assert len(tokenizer.encode(marked.text)) <= limit
        assert text.startswith(marked.text)
