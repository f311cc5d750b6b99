"""What needs no model must not solve the tasks: upper bounds on the baselines' scores."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.metrics.answers import answer_scores
from llmyard.metrics.corpus_scores import bleu_measure, chrf_measure
from llmyard.metrics.measure import f1_of, precision_of
from llmyard.metrics.summaries import rouge
from llmyard.sources.smallworld import SmallWorld
from llmyard.sources.smallworld import baselines as simple

WORLD = SmallWorld("dev", seed=7)


def examples(task: str, split: str, count: int) -> list[dict[str, Any]]:
    return [WORLD.example(task, split, i) for i in range(count)]


@pytest.fixture(scope="module")
def retrieved() -> dict[str, tuple[list[str], list[str]]]:
    train, test = examples("translation", "train", 5000), examples("translation", "test", 300)
    found = simple.nearest_neighbour_translation(train, test)
    result: dict[str, tuple[list[str], list[str]]] = {"en": ([], []), "zh": ([], [])}
    for hypothesis, pair in zip(found, test, strict=True):
        result[pair["target_language"]][0].append(hypothesis)
        result[pair["target_language"]][1].append(pair["target"])
    return result


# Characters are BLEU's units in Chinese, so that any two dated sentences share a few 4-grams.
@pytest.mark.parametrize(("language", "most_bleu", "most_chrf"), [("en", 15, 35), ("zh", 24, 25)])
def test_retrieval_does_not_translate(
    retrieved: dict[str, tuple[list[str], list[str]]], language: str, most_bleu: float, most_chrf: float
) -> None:
    hypotheses, references = retrieved[language]
    assert bleu_measure(hypotheses, references, language).value <= most_bleu
    assert chrf_measure(hypotheses, references).value <= most_chrf


def test_retrieval_finds_a_pair_that_it_has_seen() -> None:
    train = examples("translation", "train", 50)
    assert simple.nearest_neighbour_translation(train, train) == [pair["target"] for pair in train]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_commonest_answer_is_rarely_right(language: str) -> None:
    train = [q for q in examples("question_answering", "train", 1000) if q["language"] == language]
    test = [q for q in examples("question_answering", "test", 300) if q["language"] == language]
    answer = simple.majority_answer(train)
    assert answer == ""  # one question in six has no answer, and no other answer comes as often
    accepted = [[one["text"] for one in question["answers"]] or [""] for question in test]
    assert answer_scores([answer] * len(test), accepted, language).exact_match <= 0.25


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_first_two_sentences_are_no_summary(language: str) -> None:
    test = [s for s in examples("summarization", "test", 200) if s["language"] == language]
    scores = rouge([simple.lead_two(s["text"], language) for s in test], [s["summary"] for s in test], language)
    assert scores.rouge2 <= 0.32
    assert scores.rouge_l <= 0.38


def test_lead_two_cuts_at_full_stops() -> None:
    assert simple.lead_two("One. Two! Three.", "en") == "One. Two!"
    assert simple.lead_two("一。二。三。", "zh") == "一。二。"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", ["test", "test_long"])
def test_patterns_miss_most_relations(language: str, split: str) -> None:
    test = [g for g in examples("knowledge_graph", split, 300) if g["language"] == language]
    found = [simple.regex_triples(g["text"], language) for g in test]
    true = [{(t["subject"], t["relation"], t["object"]) for t in g["triples"]} for g in test]
    said = [set(each) for each in found]
    right, counts = [len(one & other) for one, other in zip(said, true, strict=True)], [len(each) for each in said]
    assert f1_of(right, counts, [len(each) for each in true]).value <= 0.45
    assert precision_of(right, counts).value >= 0.85, "an honest effort: what it finds is mostly right"


def test_patterns_read_the_plainest_sentence() -> None:
    assert simple.regex_triples("Marlor Ven works at Tilbon Works.", "en") == [
        ("Marlor Ven", "works_at", "Tilbon Works")
    ]
    assert simple.regex_triples("玛洛·文在蒂博工厂工作。", "zh") == [("玛洛·文", "works_at", "蒂博工厂")]
