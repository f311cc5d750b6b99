"""Exact match and F1 of answers in both languages, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.answers import answer_scores, common_substring, f1, normalized


def test_english_ignores_case_articles_and_punctuation() -> None:
    assert normalized("The  Kora-Town, an 'old' one!", "en") == "koratown old one"
    assert answer_scores(["the Kora Town."], [["Kora Town"]], "en").exact_match == 1


def test_english_f1_by_hand() -> None:
    scores = answer_scores(["in Kora Town"], [["Kora Town"]], "en")
    assert scores.exact_match == 0
    assert scores.f1 == pytest.approx(2 * 2 / (3 + 2))


def test_chinese_compares_characters_in_a_row() -> None:
    assert answer_scores(["科拉 镇。"], [["科拉镇"]], "zh").exact_match == 1
    # The longest common run of 在科拉镇 and 科拉镇 is 3 of 4 and 3.
    assert f1("在科拉镇", "科拉镇", "zh") == pytest.approx(6 / 7)
    assert f1("3月15日", "3月5日", "zh") == pytest.approx(2 * 2 / (4 + 4))  # 15 is one unit
    # Characters that are all there but not in a row: CMRC counts the run, not the bag.
    assert f1("镇拉科", "科拉镇", "zh") == pytest.approx(2 / 6)


def test_the_best_accepted_answer_counts() -> None:
    assert answer_scores(["两盏"], [["三盏", "两盏"]], "zh").exact_match == 1


def test_unanswerable_means_saying_nothing() -> None:
    assert answer_scores(["", "Kora"], [[], []], "en").f1 == 0.5
    assert answer_scores([""], [["Kora"]], "en").f1 == 0


def test_refusals() -> None:
    with pytest.raises(DataError):
        answer_scores([], [], "en")
    with pytest.raises(DataError):
        answer_scores(["a"], [], "en")


@given(st.text("科拉镇ab 1。,", max_size=10), st.text("科拉镇ab 1。,", max_size=10), st.sampled_from(["en", "zh"]))
def test_f1_is_symmetric_and_exact_match_means_1(first: str, second: str, language: str) -> None:
    score = f1(first, second, language)
    assert score == f1(second, first, language)
    assert 0 <= score <= 1
    if normalized(first, language) == normalized(second, language):
        assert score == 1
    assert common_substring(first, first) == len(first)
