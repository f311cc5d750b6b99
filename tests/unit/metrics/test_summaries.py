"""ROUGE against values worked out by hand and google-research's package, and its invariants."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.summaries import Rouge, common_subsequence, rouge, rouge_each, units_of


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


def test_each_pair_has_its_scores() -> None:
    said, wanted = ["她买了红灯。", "c b a"], ["她买了3盏灯", "a b c"]
    each = rouge_each(said, wanted, "zh")
    assert each[1] == Rouge(1, 0, pytest.approx(1 / 3))
    assert rouge(said, wanted, "zh").rouge2 == pytest.approx((each[0].rouge2 + each[1].rouge2) / 2)
    with pytest.raises(DataError, match="do not pair up"):
        rouge_each(["a"], [], "zh")


def test_english_is_what_google_researchs_package_says() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    draw = random.Random(0)
    words = ["The", "cats'", "sat-down", "3.5", "naïve", "U.S.", "don't", "running", "$5,000", "\n", "mat.", "a_b", ""]
    for _ in range(200):
        said, wanted = (" ".join(draw.choices(words, k=draw.randint(0, 12))) for _ in range(2))
        theirs = scorer.score(wanted, said)
        found = rouge([said], [wanted], "en")
        expected = [theirs[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
        assert [found.rouge1, found.rouge2, found.rouge_l] == pytest.approx(expected)


def test_chinese_is_the_same_with_spaces_between_characters() -> None:
    # The package sees Latin letters only: characters stand for words here, as when Chinese is split beforehand.
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    draw = random.Random(1)
    for _ in range(100):
        said, wanted = ("".join(draw.choices("她买了红灯在镇上", k=draw.randint(1, 15))) for _ in range(2))
        theirs = scorer.score(*(" ".join(f"{ord(each):x}" for each in text) for text in (wanted, said)))
        found = rouge([said], [wanted], "zh")
        expected = [theirs[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
        assert [found.rouge1, found.rouge2, found.rouge_l] == pytest.approx(expected)


words = st.lists(st.sampled_from("一二三四"), max_size=12)


@given(words, words)
def test_scores_are_symmetric_and_between_0_and_1(first: list[str], second: list[str]) -> None:
    a, b = rouge(["".join(first)], ["".join(second)], "zh"), rouge(["".join(second)], ["".join(first)], "zh")
    assert a == b
    assert 0 <= a.rouge2 <= 1
    assert 0 <= a.rouge_l <= a.rouge1 <= 1
    assert common_subsequence(first, first) == len(first)
