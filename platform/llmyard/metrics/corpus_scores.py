"""sacrebleu's figures with what each sentence adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmyard.metrics.measure import F64, Measure
from llmyard.metrics.translation import refuse_unequal


def bleu_measure(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Measure:
    """Returns BLEU as :func:`llmyard.metrics.translation.bleu` has it, 0 to 100.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    from sacrebleu.metrics import BLEU

    return _measure(BLEU(tokenize="zh" if language == "zh" else "13a"), hypotheses, references)


def chrf_measure(hypotheses: Sequence[str], references: Sequence[str], word_order: int = 0) -> Measure:
    """Returns chrF, or chrF++ with ``word_order`` 2 (Popović 2017), 0 to 100.

    Raises:
        DataError: No hypotheses, or another number of references.
    """
    from sacrebleu.metrics import CHRF

    return _measure(CHRF(word_order=word_order), hypotheses, references)


def _measure(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Measure:
    refuse_unequal(hypotheses, references)
    # What sacrebleu's own bootstrap takes; it has no public name for it.
    statistics = np.asarray(metric._extract_corpus_statistics(list(hypotheses), [list(references)]), np.float64)

    def figure(sums: F64) -> F64:
        flat = sums.reshape(-1, sums.shape[-1])
        scores = [float(metric._compute_score_from_stats(row.astype(np.int64).tolist()).score) for row in flat]
        return np.asarray(scores).reshape(sums.shape[:-1])

    return Measure(statistics, figure)
