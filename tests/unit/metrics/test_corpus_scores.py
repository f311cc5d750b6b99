"""BLEU, chrF, chrF++: sacrebleu's values, perfect and hopeless cases, Chinese characters, signatures, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF

from llmyard.core.errors import DataError
from llmyard.metrics.corpus_scores import bleu_measure, chrf_measure, signatures

SAID = {
    "en": ["She bought three red lamps.", "The town was full of people,  wasn't it?", "No."],
    "zh": ["她买了三盏红灯。", "镇上人很多，是不是？", "不。"],
}
RIGHT = {
    "en": ["She has bought three of the red lamps.", "The town was full, wasn't it?", "Never mind."],
    "zh": ["她在镇上买了三盏红色的灯。", "镇上的人是不是很多？", "没关系。"],
}
TOKENIZERS = {"en": "13a", "zh": "zh"}


def measures(language: str) -> dict[str, Callable[..., Any]]:
    return {
        "bleu": partial(bleu_measure, language=language), "chrf": chrf_measure,
        "chrf++": partial(chrf_measure, word_order=2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "language"), [("she bought three red lamps in the town .", "en"), ("她在镇上买了三盏红色的灯。", "zh")]
)
def test_a_perfect_translation_scores_100(text: str, language: str) -> None:
    for measure in measures(language).values():
        assert measure([text], [text]).value == pytest.approx(100)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sacrebleus_own_classes_agree(language: str) -> None:
    said, right = SAID[language], RIGHT[language]
    theirs = {"bleu": BLEU(tokenize=TOKENIZERS[language]), "chrf": CHRF(), "chrf++": CHRF(word_order=2)}
    for name, measure in measures(language).items():
        found = measure(said, right)
        assert found.value == pytest.approx(theirs[name].corpus_score(said, [right]).score)
        assert 0 < found.value < 100
        assert len(found.statistics) == len(said)
        assert signatures(language)[name] == str(theirs[name].get_signature())


def test_words_count_in_chrf_plus_plus_only() -> None:
    # The same characters, apart from spaces, which chrF does not see.
    said, right = ["a bc d"], ["ab cd"]
    assert chrf_measure(said, right).value == pytest.approx(100)
    assert chrf_measure(said, right, word_order=2).value < 90


def test_bleu_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, 0 of 3 quadruples, no brevity penalty.
    score = bleu_measure(["the cat sat on the mat"], ["the cat lay on the mat"], "en").value
    # No common 4-gram of 3: "exp" smoothing counts the first missing order as half a match.
    expected = 100 * (5 / 6 * 3 / 5 * 1 / 4 * (1 / (2 * 3))) ** 0.25
    assert score == pytest.approx(expected)


def test_chinese_bleu_counts_characters() -> None:
    # 7 of 8 characters, 6 of 7 pairs, 5 of 6 triples, 4 of 5 quadruples.
    said, right = ["他在镇上买了灯泡"], ["她在镇上买了灯泡"]
    score = bleu_measure(said, right, "zh").value
    assert score == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25)
    assert bleu_measure(said, right, "en").value < score


def test_signatures_name_the_tokenizer() -> None:
    for language, tokenizer in TOKENIZERS.items():
        found = signatures(language)
        assert f"tok:{tokenizer}" in found["bleu"]
        assert "version:" in found["chrf"]
        assert "nw:0" in found["chrf"]
        assert "nw:2" in found["chrf++"]


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrf++"])
def test_nothing_and_unequal_numbers_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="no hypotheses"):
        measures("en")[name]([], [])
    with pytest.raises(DataError, match="2 hypotheses do not pair up with 1"):
        measures("zh")[name](["a", "b"], ["a"])
