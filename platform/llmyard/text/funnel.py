"""How many documents and characters pass each step, by source and language."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

Funnel = Counter[tuple[str, str, str, str]]


def tally(step: str, source: Any, language: Any, **figures: Any) -> Funnel:
    """Returns (step, figure, source, language) -> sum of that figure, and the number of rows as ``documents``.

    Args:
        step: Name of the step that has been passed.
        source: Arrow column of sources.
        language: Arrow column of languages.
        **figures: Numbers of every row, Arrow columns or arrays, by the figure's name.
    """
    columns = {"source": source, "language": language, **figures}
    wanted: list[Any] = [([], "count_all"), *((name, "sum") for name in figures)]
    groups = pa.table(columns).group_by(["source", "language"]).aggregate(wanted)
    found: Funnel = Counter()
    for row in groups.to_pylist():
        place = row["source"], row["language"]
        found[step, "documents", *place] = row["count_all"]
        for name in figures:
            found[step, name, *place] = int(row[f"{name}_sum"])
    return found
