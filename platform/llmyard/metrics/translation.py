"""BLEU and chrF of a corpus through sacrebleu, with the signature that makes the number comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    refuse_unequal(hypotheses, references)
    from sacrebleu.metrics import BLEU  # 0.2 s to import; only evaluation pays for it

    metric = BLEU(tokenize="zh" if language == "zh" else "13a")
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(float(score.score), str(metric.get_signature()))


def chrf(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Score:
    """Corpus chrF2 (Popović 2015) over character 6-grams against one reference each; the same for every language.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    refuse_unequal(hypotheses, references)
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(float(score.score), str(metric.get_signature()))


def refuse_unequal(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    """Raises DataError when there is nothing to score or the two do not pair up."""
    if not hypotheses:
        raise DataError("there are no hypotheses to score", "give one hypothesis for every reference")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses do not pair up with {len(references)} references",
            "give one hypothesis for every reference",
        )
