"""Examples from a translation model: which text changes, which does not, and what is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.tasks.back_translation import _FIELDS, back_translated, paraphrased
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import BACK_TRANSLATED, Classification, QuestionAnswering, Summarization, Translation

WORDS = {"灯": "lamp", "很": "very", "好": "good", "看": "looking"}
TURNED = {"lamp": "灯盏", "very": "十分", "good": "好", "looking": "看"}


def translate(texts: Sequence[str], target: str) -> list[str]:
    """Word by word, and back with synonyms; what it does not know it leaves."""
    if target == "en":
        return [" ".join(WORDS.get(each, each) for each in text) for text in texts]
    return ["".join(TURNED.get(each, each) for each in text.split()) for text in texts]


def test_a_chinese_text_is_paraphrased_through_english() -> None:
    record = {"id": "a", "text": "灯很好看。灯好！", "label": "好", "language": "zh"}
    (copy,) = back_translated([record], "classification", translate)
    assert copy == {**record, "id": "a~back", "text": "灯盏十分好看。灯盏好！"}


def test_a_translation_gets_a_source_from_its_target() -> None:
    record = {
        "id": "a",
        "source": "Lamps are fine",
        "target": "灯很好",
        "source_language": "en",
        "target_language": "zh",
    }
    (copy,) = back_translated([record], "translation", translate)
    assert copy["source"] == "lamp very good"
    assert copy["target"] == "灯很好"


def test_of_a_question_about_a_text_the_text_and_the_answer_stay() -> None:
    answers = [{"text": "灯", "start": 0}]
    record = {"id": "q", "context": "灯很好。", "question": "什么很好？", "answers": answers, "language": "zh"}
    (copy,) = back_translated([record], "question_answering", translate)
    assert copy == {**record, "id": "q~back", "question": "什么十分好？"}
    task_of(QuestionAnswering(), "bert").check(copy)


@pytest.mark.parametrize("said", ["", "   ", "灯很好看。", "灯" * 40])
def test_what_is_empty_the_same_or_far_too_long_is_no_example(said: str) -> None:
    record = {"id": "a", "text": "灯很好看。", "label": "好", "language": "zh"}
    assert not list(back_translated([record], "classification", lambda texts, target: [said] * len(texts)))


def test_all_tasks_that_can_be_are_told_by_their_records() -> None:
    configs: dict[str, Any] = {
        "translation": Translation(), "classification": Classification(), "summarization": Summarization(),
        "question_answering": QuestionAnswering(),
    }  # fmt: skip
    assert set(configs) == set(BACK_TRANSLATED) == set(_FIELDS)
    pair = {"id": "p", "text": "灯很好看。", "text_pair": "灯很好。", "label": "好", "language": "zh"}
    copies = list(back_translated([pair], "classification", translate))
    assert [copy["id"] for copy in copies] == ["p~back", "p~back2"]
    for copy in copies:
        assert task_of(configs["classification"], "gpt2").check(copy) == copy


@given(st.lists(st.text("灯好a .。!！\n”", max_size=12), max_size=4))
def test_a_translator_that_changes_nothing_gives_the_text_back(texts: list[str]) -> None:
    made = paraphrased(texts, lambda some, target: list(some))
    assert [each.split() for each in made] == [each.split() for each in texts]
