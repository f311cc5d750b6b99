"""How often each token stands in what a run trains on, counted on Ray: the driver gets sums of many shards."""

from __future__ import annotations

from typing import Any

from llmyard.core.artifacts import Artifact
from llmyard.core.compiled import I64
from llmyard.stages.stage import Making
from llmyard.tokens.tokenizer import FILE

PARTS = 16  # of all shards; as many vectors come back, however large the corpus is


def counted(making: Making) -> I64:
    """Returns the counts of all tokens in the training split, (V)."""
    import numpy as np

    from llmyard.runtime.datasets import map_with
    from llmyard.tokens.tokenizer import Tokenizer

    corpora = [making.parents[role] for role in ("shards", "replay") if role in making.parents]
    size = Tokenizer.load(making.parents["tokenizer"].local(FILE)).vocab_size
    found = map_with([{"part": part} for part in range(PARTS)], Counter, (corpora, size))
    counts = np.zeros(size, np.int64)
    for row in found:
        counts += np.array(row["counts"], np.int64)
    return counts


class Counter:
    """Counts the tokens of every ``PARTS``-th training shard of some corpora."""

    def __init__(self, corpora: list[Artifact], size: int) -> None:
        self.corpora, self.size = corpora, size

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        from llmyard.tokens.frequencies import token_counts
        from llmyard.tokens.shards import ShardSet

        shards = [shard for corpus in self.corpora for shard in ShardSet.of(corpus, "train").shards]
        return {"counts": token_counts(shards[unit["part"] :: PARTS], self.size).tolist()}
