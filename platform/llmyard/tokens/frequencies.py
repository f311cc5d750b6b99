"""How often each token stands in a corpus, and what word vectors make of it (Mikolov et al. 2013, sections 2.2-3)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from llmyard.core.compiled import I64
from llmyard.tokens.stored import Readable

F64 = npt.NDArray[np.float64]
CHUNK = 1 << 22  # tokens counted at once
NOISE_POWER = 0.75


def token_counts(shards: Iterable[Readable], size: int) -> I64:
    """Returns how often each id below ``size`` stands in the shards, read a piece at a time."""
    counts = np.zeros(size, np.int64)
    for shard in shards:
        for start in range(0, shard.tokens, CHUNK):
            counts += np.bincount(shard.read(start, min(CHUNK, shard.tokens - start)), minlength=size)
    return counts


def keeping(counts: I64, threshold: float) -> F64:
    """Returns for each token how likely one of its occurrences is read: ``sqrt(threshold / frequency)``, at most 1."""
    if not threshold:
        return np.ones(len(counts))
    frequencies = np.maximum(counts, 1) / max(1, int(counts.sum()))
    return np.minimum(1.0, np.sqrt(threshold / frequencies))


def noise(counts: I64) -> F64:
    """Returns the distribution that tokens are drawn from: frequencies to the power of 0.75, adding up to one."""
    raised = counts.astype(np.float64) ** NOISE_POWER
    drawn: F64 = raised / raised.sum()
    return drawn


def frequency_scores(counts: I64, threshold: float, negatives: int) -> F64:
    """Returns for each token the best score that does not look at the centre: log(frequency / (negatives * noise)).

    It is where the loss of negative sampling has its minimum for a model that knows frequencies alone (Levy and
    Goldberg 2014). Tokens that were never seen count as seen once.
    """
    seen = np.maximum(counts, 1)
    read = seen * keeping(seen, threshold)
    scores: F64 = np.log(read / read.sum()) - np.log(negatives * noise(seen))
    return scores
