"""BLEU, chrF and chrF++ through sacrebleu, with the signature that makes the number comparable.

What each sentence adds to a corpus score is in :mod:`llmyard.metrics.corpus_scores`; the scores of single sentences
here are for finding bad ones: their mean is not the corpus score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmyard.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus score from 0 to 100, and sacrebleu's signature (version, tokenizer, smoothing)."""

    value: float
    signature: str


def bleu(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Score:
    """Corpus BLEU (Papineni et al. 2002) against one reference each.

    Args:
        hypotheses: What the model said.
        references: What it should have said, in the same order.
        language: The target language: "zh" is split into characters, everything else by mteval's "13a".

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _corpus(_bleu(language), hypotheses, references)


def bleu_each(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[float]:
    """Each sentence's BLEU, 0 to 100, over the n-grams that it is long enough for, with sacrebleu's smoothing.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _sentences(_bleu(language, effective_order=True), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Score:
    """Corpus chrF2 (Popović 2015) over character 6-grams against one reference each; the same for every language.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _corpus(_chrf(0), hypotheses, references)


def chrf_each(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[float]:
    """Each sentence's chrF2, 0 to 100.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _sentences(_chrf(0), hypotheses, references)


def chrf_plus_plus(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Score:
    """Corpus chrF++ (Popović 2017): chrF2 with single words and pairs of words beside the characters.

    Words are what spaces and punctuation separate, so in Chinese a clause counts as a word, and chrF tells more there.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _corpus(_chrf(2), hypotheses, references)


def chrf_plus_plus_each(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[float]:
    """Each sentence's chrF++, 0 to 100.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _sentences(_chrf(2), hypotheses, references)


def refuse_unequal(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    """Raises DataError when there is nothing to score or the two do not pair up."""
    if not hypotheses:
        raise DataError("there are no hypotheses to score", "give one hypothesis for every reference")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses do not pair up with {len(references)} references",
            "give one hypothesis for every reference",
        )


def _bleu(language: str, effective_order: bool = False) -> Any:
    from sacrebleu.metrics import BLEU  # 0.2 s to import; only evaluation pays for it

    return BLEU(tokenize="zh" if language == "zh" else "13a", effective_order=effective_order)


def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=word_order)


def _corpus(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    refuse_unequal(hypotheses, references)
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(float(score.score), str(metric.get_signature()))


def _sentences(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    refuse_unequal(hypotheses, references)
    return [
        float(metric.sentence_score(said, [wanted]).score) for said, wanted in zip(hypotheses, references, strict=True)
    ]
