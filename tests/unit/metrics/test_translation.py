"""BLEU, chrF, chrF++: sacrebleu's values, perfect and hopeless cases, Chinese characters, and refusals."""

from __future__ import annotations

import dataclasses

import pytest
from sacrebleu.metrics import BLEU, CHRF

from llmyard.core.errors import DataError
from llmyard.metrics.translation import (
    Score,
    bleu,
    bleu_each,
    chrf,
    chrf_each,
    chrf_plus_plus,
    chrf_plus_plus_each,
)

SAID = {
    "en": ["She bought three red lamps.", "The town was full of people,  wasn't it?", "No."],
    "zh": ["她买了三盏红灯。", "镇上人很多，是不是？", "不。"],
}
RIGHT = {
    "en": ["She has bought three of the red lamps.", "The town was full, wasn't it?", "Never mind."],
    "zh": ["她在镇上买了三盏红色的灯。", "镇上的人是不是很多？", "没关系。"],
}


@pytest.mark.parametrize(
    ("text", "language"), [("she bought three red lamps in the town .", "en"), ("她在镇上买了三盏红色的灯。", "zh")]
)
def test_a_perfect_translation_scores_100(text: str, language: str) -> None:
    assert bleu([text], [text], language).value == pytest.approx(100)
    assert chrf([text], [text], language).value == pytest.approx(100)
    assert chrf_plus_plus([text], [text], language).value == pytest.approx(100)
    for each in (bleu_each, chrf_each, chrf_plus_plus_each):
        assert each([text], [text], language) == [pytest.approx(100)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sacrebleus_own_classes_agree(language: str) -> None:
    said, right = SAID[language], RIGHT[language]
    tokenizer = {"en": "13a", "zh": "zh"}[language]
    for score, each, whole, single in (
        (bleu, bleu_each, BLEU(tokenize=tokenizer), BLEU(tokenize=tokenizer, effective_order=True)),
        (chrf, chrf_each, CHRF(), CHRF()),
        (chrf_plus_plus, chrf_plus_plus_each, CHRF(word_order=2), CHRF(word_order=2)),
    ):
        found = score(said, right, language)
        assert found.value == whole.corpus_score(said, [right]).score
        assert 0 < found.value < 100
        assert found.signature == str(whole.get_signature())
        expected = [single.sentence_score(one, [other]).score for one, other in zip(said, right, strict=True)]
        assert each(said, right, language) == expected


def test_words_count_in_chrf_plus_plus_only() -> None:
    # The same characters, apart from spaces, which chrF does not see.
    said, right = ["a bc d"], ["ab cd"]
    assert chrf(said, right, "en").value == pytest.approx(100)
    assert chrf_plus_plus(said, right, "en").value < 90


def test_bleu_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, 0 of 3 quadruples, no brevity penalty.
    score = bleu(["the cat sat on the mat"], ["the cat lay on the mat"], "en").value
    matches = (5 / 6, 3 / 5, 1 / 4)
    # No common 4-gram of 3: "exp" smoothing counts the first missing order as half a match.
    expected = 100 * (matches[0] * matches[1] * matches[2] * (1 / (2 * 3))) ** 0.25
    assert score == pytest.approx(expected)


def test_chinese_bleu_counts_characters() -> None:
    # 7 of 8 characters, 5 of 7 pairs, 4 of 6 triples, 3 of 5 quadruples.
    score = bleu(["他在镇上买了灯泡"], ["她在镇上买了灯泡"], "zh").value
    assert score == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25)
    assert bleu(["他在镇上买了灯泡"], ["她在镇上买了灯泡"], "en").value < score


def test_signatures_name_the_tokenizer() -> None:
    assert "tok:zh" in bleu(["一二三四"], ["一二三四"], "zh").signature
    assert "tok:13a" in bleu(["a b c d"], ["a b c d"], "en").signature
    assert "version:" in chrf(["a"], ["a"], "en").signature
    assert "nw:0" in chrf(["a"], ["a"], "en").signature
    assert "nw:2" in chrf_plus_plus(["a"], ["a"], "en").signature


def test_scores_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Score(1.0, "x").value = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("metric", [bleu, chrf, chrf_plus_plus, bleu_each, chrf_each, chrf_plus_plus_each])
def test_nothing_and_unequal_numbers_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="no hypotheses"):
        metric([], [], "en")
    with pytest.raises(DataError, match="2 hypotheses do not pair up with 1"):
        metric(["a", "b"], ["a"], "zh")
