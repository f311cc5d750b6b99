"""Exact match and F1 of answers in both languages: by hand, and by the rules of SQuAD's and CMRC's scripts."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import DataError
from llmyard.metrics.answers import (
    AnswerScore,
    answer_scores,
    answer_scores_each,
    common_substring,
    exact_match,
    f1,
    normalized,
)

CMRC = Path(__file__).resolve().parents[4] / "shared/data/cmrc2018/cmrc2018_dev.json"
# What CMRC 2018's script takes out before it compares.
CMRC_LOST = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


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


def test_mixed_scripts_keep_words_whole() -> None:
    # Units: 由 kora town 公司 against kora town: two words, not eight letters.
    assert f1("由Kora Town公司", "Kora Town", "zh") == pytest.approx(2 * 2 / (5 + 2))
    assert f1("iPhone 4S手机", "iPhone", "zh") == pytest.approx(2 * 1 / (4 + 1))
    assert f1("KoraTown", "Kora Town", "zh") == 0
    assert exact_match("Kora Town", "KoraTown", "zh") == 0
    assert exact_match("Kora  Town 公司。", "kora town公司", "zh") == 1
    # A sign that the script does not take out counts.
    assert exact_match("50%", "50", "zh") == 0
    assert f1("50%", "50", "zh") == pytest.approx(2 / 3)
    assert f1("1,000人", "1,000", "zh") == pytest.approx(2 / 3)


def test_the_best_accepted_answer_counts() -> None:
    assert answer_scores(["两盏"], [["三盏", "两盏"]], "zh").exact_match == 1


def test_unanswerable_means_saying_nothing() -> None:
    assert answer_scores(["", "Kora"], [[], []], "en").f1 == 0.5
    assert answer_scores([""], [["Kora"]], "en").f1 == 0


def test_each_question_has_its_scores() -> None:
    said, right = ["Kora", "a Kora Town", ""], [["Kora"], ["Kora Town", "Malo"], ["Malo"]]
    each = answer_scores_each(said, right, "en")
    assert each == [AnswerScore(1, 1), AnswerScore(1, 1), AnswerScore(0, 0)]
    assert answer_scores(said, right, "en") == AnswerScore(2 / 3, 2 / 3)


def test_questions_with_and_without_an_answer() -> None:
    said, right = ["科拉镇", "在科拉镇", "", "马洛"], [["科拉镇"], ["科拉镇"], [], ["。"]]
    # Signs alone are no answer: what is said there is wrong.
    assert answer_scores_each(said, right, "zh") == [
        AnswerScore(1, 1), AnswerScore(0, pytest.approx(6 / 7)), AnswerScore(1, 1), AnswerScore(0, 0),
    ]  # fmt: skip
    assert answer_scores(said, right, "zh") == AnswerScore(2 / 4, pytest.approx((1 + 6 / 7 + 1) / 4))
    assert answer_scores_each([""], [["。"]], "zh") == [AnswerScore(1, 1)]


def squad(said: str, wanted: str) -> tuple[float, float]:
    """SQuAD 2.0's rule, written down anew."""

    def tokens(text: str) -> list[str]:
        bare = "".join(each for each in text.lower() if each not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", bare).split()

    one, other = tokens(said), tokens(wanted)
    common = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other), float(one == other)
    return float(one == other), 2 * common / (len(one) + len(other))


@given(*[st.text("aAthekora town .,'“£$—", max_size=20)] * 2)
def test_english_is_squads_rule(said: str, wanted: str) -> None:
    assert (exact_match(said, wanted, "en"), f1(said, wanted, "en")) == pytest.approx(squad(said, wanted))


def cmrc(said: str, wanted: str) -> tuple[float, float]:
    """CMRC 2018's rule, written down anew; its words are NLTK's."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    def units(text: str) -> list[str]:
        kept = "".join(each for each in text.lower().strip() if each not in CMRC_LOST)
        parts = re.findall(r"[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", kept)
        return [unit for part in parts for unit in ([part] if part >= "\u4e00" else words.tokenize(part))]

    words = NLTKWordTokenizer()
    one, other = units(said), units(wanted)
    bare = ["".join(each for each in text.lower().strip() if each not in CMRC_LOST) for text in (said, wanted)]
    common = common_substring(one, other)
    return float(bare[0] == bare[1]), 2 * common / (len(one) + len(other)) if common else 0.0


@pytest.mark.skipif(not CMRC.exists(), reason=f"{CMRC} is missing")
def test_chinese_is_cmrcs_rule_on_real_answers() -> None:
    pytest.importorskip("nltk")
    draw, mine, theirs = random.Random(0), [], []
    for entry in json.loads(CMRC.read_text(encoding="utf-8"))["data"]:
        for paragraph in entry["paragraphs"]:
            for question in paragraph["qas"]:
                wanted = question["answers"][0]["text"]
                start = paragraph["context"].find(wanted) + draw.randint(-4, 4)
                said = paragraph["context"][max(start, 0) : max(start, 0) + len(wanted) + draw.randint(-4, 6)]
                mine.append((exact_match(said, wanted, "zh"), f1(said, wanted, "zh")))
                theirs.append(cmrc(said, wanted))
    assert [exact for exact, _ in mine] == [exact for exact, _ in theirs]
    assert sum(one[1] != pytest.approx(other[1]) for one, other in zip(mine, theirs, strict=True)) <= 20
    assert sum(one[1] for one in mine) / len(mine) == pytest.approx(sum(one[1] for one in theirs) / len(mine), abs=3e-4)


def test_refusals() -> None:
    with pytest.raises(DataError, match="are the text"):
        answer_scores(["a"], ["a"], "en")
    with pytest.raises(DataError, match="no hypotheses"):
        answer_scores_each([], [], "zh")
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
