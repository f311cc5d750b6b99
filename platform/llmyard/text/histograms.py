"""Histograms that add up over batches: what the report draws of lengths and quality."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from llmyard.text.quality import Counts

# Upper edges of the bins; what is above the last goes to one more. Lengths in characters double from bin to bin.
EDGES: dict[str, list[float]] = {
    "characters": [float(2**power) for power in range(5, 21)],
    "letter_share": [at / 20 for at in range(1, 21)],
    "punctuation_share": [at / 50 for at in range(1, 21)],
    "stop_share": [at / 50 for at in range(1, 21)],
    "repeated_line_share": [at / 20 for at in range(1, 21)],
}
Histograms = Counter[tuple[str, str, int]]


def histograms(languages: Any, counts: Counts) -> Histograms:
    """Returns (figure, language, bin) -> documents.

    ``stop_share`` is the share of stop characters among Chinese ones; it is drawn for Chinese texts only.

    Args:
        languages: Arrow column.
        counts: ``statistics`` of the same documents.
    """
    dense = np.maximum(counts["dense"], 1)
    values = {
        "characters": counts["characters"],
        "letter_share": counts["letters"] / dense,
        "punctuation_share": counts["punctuation"] / dense,
        "stop_share": counts["stop_characters"] / np.maximum(counts["han"], 1),
        "repeated_line_share": counts["repeated_line_characters"] / np.maximum(counts["line_characters"], 1),
    }
    found: Histograms = Counter()
    for language in pc.unique(languages).to_pylist():
        chosen = pc.equal(languages, language).to_numpy(zero_copy_only=False)
        for figure, edges in EDGES.items():
            if figure == "stop_share" and language != "zh":
                continue
            bins = np.bincount(np.searchsorted(edges, values[figure][chosen]), minlength=len(edges) + 1)
            found.update({(figure, language, at): int(count) for at, count in enumerate(bins) if count})
    return found
