"""Exact match and F1 of extracted answers: SQuAD's way in English (Rajpurkar et al. 2016), CMRC's way in Chinese (Cui
et al. 2019).

English answers are lower-cased, lose ASCII punctuation and articles, and are compared by words. Chinese ones are
lower-cased and lose the signs that CMRC 2018's script lists; their units are single Chinese characters and, of
everything else, words. CMRC's F1 takes the longest common *substring* of units; so does this one.

Two departures from CMRC's script: spaces beside Chinese characters never count (there they count for exact match, not
for F1), and two empty answers agree, since other sets have questions without an answer. Words are split more simply
than NLTK does: of 3,219 badly cut answers of the development set 8 get another F1, the mean differs by 0.0001.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmyard.core.errors import DataError
from llmyard.metrics.measure import refuse_unequal

ARTICLES = re.compile(r"\b(a|an|the)\b")
# A Chinese character, or a run without any; full stops, commas and apostrophes inside of one belong to it ("3.5",
# "o'brien"), other ASCII signs are units of their own ("50%").
CHINESE_UNIT = re.compile(r"[\u3400-\u9fff]|(?:[^\s\u3400-\u9fff!-/:-@\[-`{-~]|(?<=\w)[.,'](?=\w))+|[!-/:-@\[-`{-~]")

_ENGLISH_LOST = dict.fromkeys(map(ord, string.punctuation))
_CHINESE_LOST = dict.fromkeys(map(ord, "-:_*^/\\~`+=，。：？！“”‘’；《》…·、「」『』（）－～"))
_SPACES_BESIDE_CHINESE = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])")


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
    return _mean(answer_scores_each(predicted, expected, language))


def answer_scores_each(predicted: Sequence[str], expected: Sequence[Sequence[str]], language: str) -> list[AnswerScore]:
    """Each question's best exact match and best F1 over its accepted answers.

    Raises:
        DataError: No answers, or another number of questions.
    """
    refuse_unequal(predicted, expected)
    scores = []
    for said, given in zip(predicted, expected, strict=True):
        accepted = _accepted(given, language)
        exact = max(exact_match(said, one, language) for one in accepted)
        scores.append(AnswerScore(exact, max(f1(said, one, language) for one in accepted)))
    return scores


def normalized(answer: str, language: str) -> str:
    """The answer as it is compared: lower case, without punctuation; English loses articles and extra spaces, Chinese
    the spaces beside its characters.
    """
    if language == "zh":
        kept = " ".join(answer.lower().translate(_CHINESE_LOST).split())
        return _SPACES_BESIDE_CHINESE.sub("", kept)
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(_ENGLISH_LOST)).split())


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


def _accepted(given: Sequence[str], language: str) -> list[str]:
    """Returns the answers that are more than punctuation, or "" alone where there is none, as SQuAD's script does."""
    if isinstance(given, str):
        raise DataError(f"the accepted answers are the text {given!r}", "give a list of texts for each question")
    return [one for one in given if normalized(one, language)] or [""]


def _mean(scores: Sequence[AnswerScore]) -> AnswerScore:
    count = len(scores)
    return AnswerScore(sum(each.exact_match for each in scores) / count, sum(each.f1 for each in scores) / count)
