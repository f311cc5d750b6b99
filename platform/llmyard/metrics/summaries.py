"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F1 of a summary's units against the reference's, averaged over pairs.

Units are lower-cased words in English (digits and letters, as in google-research/rouge, without stemming); in Chinese
single characters, with runs of Latin letters and digits kept whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmyard.metrics.measure import refuse_unequal

ENGLISH_UNIT = re.compile(r"[a-z0-9]+")
CHINESE_UNIT = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Rouge:
    """F1 from 0 to 1 of single units, pairs of units, and the longest common subsequence."""

    rouge1: float
    rouge2: float
    rouge_l: float


def units_of(text: str, language: str) -> list[str]:
    """What ROUGE counts: words in English, characters in Chinese; punctuation is left out."""
    return (CHINESE_UNIT if language == "zh" else ENGLISH_UNIT).findall(text.lower())


def rouge(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Rouge:
    """The mean scores of all pairs; a pair without any common unit scores 0, also when either side is empty.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    scores = rouge_each(hypotheses, references, language)
    columns = zip(*((each.rouge1, each.rouge2, each.rouge_l) for each in scores), strict=True)
    return Rouge(*(sum(column) / len(scores) for column in columns))


def rouge_each(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[Rouge]:
    """Each pair's scores.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    refuse_unequal(hypotheses, references)
    scores = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        said, wanted = units_of(hypothesis, language), units_of(reference, language)
        longest = f1(common_subsequence(said, wanted), len(said), len(wanted))
        scores.append(Rouge(overlap_f1(said, wanted, 1), overlap_f1(said, wanted, 2), longest))
    return scores


def overlap_f1(said: Sequence[str], wanted: Sequence[str], size: int) -> float:
    """F1 of the n-grams of this size, each counted at most as often as the other side has it."""
    a = Counter(tuple(said[i : i + size]) for i in range(len(said) - size + 1))
    b = Counter(tuple(wanted[i : i + size]) for i in range(len(wanted) - size + 1))
    return f1((a & b).total(), a.total(), b.total())


def f1(common: int, first: int, second: int) -> float:
    """The harmonic mean of common/first and common/second; 0 when nothing is common."""
    return 2 * common / (first + second) if common else 0.0


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, in O(first * second) time and O(second) memory."""
    row = [0] * (len(second) + 1)
    for unit in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            above = row[j]
            row[j] = diagonal + 1 if unit == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]
