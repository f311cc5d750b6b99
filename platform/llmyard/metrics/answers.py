"""Exact match and F1 of extracted answers: SQuAD's way in English (Rajpurkar et al. 2016), CMRC's way in Chinese (Cui
et al. 2019).

English answers are lower-cased, without punctuation and articles, and compared by words; Chinese ones lose spaces and
punctuation and
are compared by characters. CMRC's F1 takes the longest common *substring*; so does this one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmyard.metrics.translation import refuse_unequal

ARTICLES = re.compile(r"\b(a|an|the)\b")
CHINESE_UNIT = re.compile(r"[a-z0-9]+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Means from 0 to 1 over all questions."""

    exact_match: float
    f1: float


def answer_scores(predicted: Sequence[str], expected: Sequence[Sequence[str]], language: str) -> AnswerScore:
    """The mean of each question's best score over its accepted answers.

    Args:
        predicted: One answer a question; "" says that there is none.
        expected: The accepted answers of each question; an empty list means unanswerable, and only "" is right then.
        language: "zh" compares characters, everything else words.

    Raises:
        DataError: No answers, or another number of questions.
    """
    refuse_unequal(predicted, expected)
    exact = total = 0.0
    for said, accepted in zip(predicted, expected, strict=True):
        scores = [(exact_match(said, one, language), f1(said, one, language)) for one in accepted or [""]]
        exact += max(score[0] for score in scores)
        total += max(score[1] for score in scores)
    return AnswerScore(exact / len(predicted), total / len(predicted))


def normalized(answer: str, language: str) -> str:
    """The answer as it is compared: lower case, no punctuation; English loses articles and extra spaces, Chinese all
    spaces.
    """
    kept = "".join(c for c in answer.lower() if not unicodedata.category(c).startswith(("P", "S")))
    if language == "zh":
        return "".join(kept.split())
    return " ".join(ARTICLES.sub(" ", kept).split())


def exact_match(said: str, wanted: str, language: str) -> float:
    """1 when the normalized answers are equal, else 0."""
    return float(normalized(said, language) == normalized(wanted, language))


def f1(said: str, wanted: str, language: str) -> float:
    """The overlap of the two answers' units, 0 to 1; two empty answers agree."""
    if language == "zh":
        a, b = CHINESE_UNIT.findall(normalized(said, language)), CHINESE_UNIT.findall(normalized(wanted, language))
        common = common_substring(a, b)
    else:
        a, b = normalized(said, language).split(), normalized(wanted, language).split()
        common = (Counter(a) & Counter(b)).total()
    if not a or not b:
        return float(a == b)
    return 2 * common / (len(a) + len(b))


def common_substring(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest run of units that both have."""
    best, row = 0, [0] * (len(second) + 1)
    for unit in first:
        row = [0, *(row[j] + 1 if unit == other else 0 for j, other in enumerate(second))]
        best = max(best, *row)
    return best
