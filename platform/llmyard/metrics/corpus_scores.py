"""BLEU, chrF and chrF++ through sacrebleu, with what each sentence adds to them and the signatures that make them
comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmyard.metrics.measure import F64, Measure, refuse_unequal


def bleu_measure(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Measure:
    """Returns corpus BLEU (Papineni et al. 2002) against one reference each, 0 to 100.

    Args:
        hypotheses: What the model said.
        references: What it should have said, in the same order.
        language: The target language: "zh" is split into characters, everything else by mteval's "13a".

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _measure(_bleu(language), hypotheses, references)


def chrf_measure(hypotheses: Sequence[str], references: Sequence[str], word_order: int = 0) -> Measure:
    """Returns corpus chrF2 (Popović 2015) over character 6-grams, or chrF++ with ``word_order`` 2 (Popović 2017), 0 to
    100; the same for every language.

    Words are what spaces and punctuation separate, so in Chinese a clause counts as a word, and chrF tells more there.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    return _measure(_chrf(word_order), hypotheses, references)


def signatures(language: str) -> dict[str, str]:
    """Returns sacrebleu's signatures of the figures of a target language: version, tokenizer, smoothing."""
    metrics = {"bleu": _bleu(language), "chrf": _chrf(0), "chrf++": _chrf(2)}
    return {name: _signature(metric) for name, metric in metrics.items()}


def _signature(metric: Any) -> str:
    metric.corpus_score(["a"], [["a"]])  # the number of references is a part of it
    return str(metric.get_signature())


def _bleu(language: str) -> Any:
    from sacrebleu.metrics import BLEU  # 0.2 s to import; only evaluation pays for it

    return BLEU(tokenize="zh" if language == "zh" else "13a")


def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=word_order)


def _measure(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Measure:
    refuse_unequal(hypotheses, references)
    # What sacrebleu's own bootstrap takes; it has no public name for it.
    statistics = np.asarray(metric._extract_corpus_statistics(list(hypotheses), [list(references)]), np.float64)

    def figure(sums: F64) -> F64:
        flat = sums.reshape(-1, sums.shape[-1])
        scores = [float(metric._compute_score_from_stats(row.astype(np.int64).tolist()).score) for row in flat]
        return np.asarray(scores).reshape(sums.shape[:-1])

    return Measure(statistics, figure)
