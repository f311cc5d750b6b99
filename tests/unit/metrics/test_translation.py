"""BLEU and chrF: perfect and hopeless cases, Chinese characters, and refusals."""

from __future__ import annotations

import dataclasses

import pytest

from llmyard.core.errors import DataError
from llmyard.metrics.translation import Score, bleu, chrf


@pytest.mark.parametrize(
    ("text", "language"), [("she bought three red lamps in the town .", "en"), ("她在镇上买了三盏红色的灯。", "zh")]
)
def test_a_perfect_translation_scores_100(text: str, language: str) -> None:
    assert bleu([text], [text], language).value == pytest.approx(100)
    assert chrf([text], [text], language).value == pytest.approx(100)


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


def test_scores_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Score(1.0, "x").value = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_nothing_and_unequal_numbers_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="no hypotheses"):
        metric([], [], "en")
    with pytest.raises(DataError, match="2 hypotheses do not pair up with 1"):
        metric(["a", "b"], ["a"], "zh")
