"""ROUGE against values worked out by hand, and its invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.summaries import common_subsequence, rouge, units_of


def test_english_by_hand() -> None:
    scores = rouge(["The cat sat on the mat."], ["the cat lay on a mat"], "en")
    # Units: the cat sat on the mat | the cat lay on a mat. Common: the, cat, on, mat = 4 of 6 and 6.
    assert scores.rouge1 == pytest.approx(4 / 6)
    # Pairs in common: "the cat" only, of 5 and 5.
    assert scores.rouge2 == pytest.approx(1 / 5)
    assert scores.rouge_l == pytest.approx(4 / 6)


def test_chinese_by_hand() -> None:
    # Units: 她 买 了 红 灯 (5) and 她 买 了 3 盏 灯 (6). Common 4; pairs 2 of 4 and 5;
    # the subsequence is 她买了灯.
    scores = rouge(["她买了红灯。"], ["她买了3盏灯"], "zh")
    assert scores.rouge1 == pytest.approx(8 / 11)
    assert scores.rouge2 == pytest.approx(4 / 9)
    assert scores.rouge_l == pytest.approx(8 / 11)


def test_order_matters_to_the_longest_subsequence_only() -> None:
    scores = rouge(["c b a"], ["a b c"], "en")
    assert (scores.rouge1, scores.rouge2) == (1, 0)
    assert scores.rouge_l == pytest.approx(1 / 3)


def test_the_mean_is_over_pairs_and_empty_ones_score_nothing() -> None:
    assert rouge(["a b", ""], ["a b", "a b"], "en").rouge1 == 0.5
    assert rouge(["", "。"], ["", "。"], "zh").rouge_l == 0
    with pytest.raises(DataError):
        rouge([], [], "en")


def test_units() -> None:
    assert units_of("On March 3, don't!", "en") == ["on", "march", "3", "don", "t"]
    assert units_of("3月5日，Malo走了。", "zh") == ["3", "月", "5", "日", "malo", "走", "了"]


words = st.lists(st.sampled_from("一二三四"), max_size=12)


@given(words, words)
def test_scores_are_symmetric_and_between_0_and_1(first: list[str], second: list[str]) -> None:
    a, b = rouge(["".join(first)], ["".join(second)], "zh"), rouge(["".join(second)], ["".join(first)], "zh")
    assert a == b
    assert 0 <= a.rouge2 <= 1
    assert 0 <= a.rouge_l <= a.rouge1 <= 1
    assert common_subsequence(first, first) == len(first)
