"""The cleaning steps of one unit of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Quality
from llmyard.text.normalize import normalize
from llmyard.text.quality import han_share, judge

CHINESE_SHARE = 0.3  # a text with this share of Chinese characters counts as Chinese in reports


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a unit became.

    Attributes:
        kept: Columns id, text, source, language.
        dropped: Reason to number of documents.
        samples: Reason to the ids of a few documents dropped for it.
    """

    kept: pa.Table
    dropped: dict[str, int]
    samples: dict[str, list[str]]


def clean(documents: pa.Table, steps: Sequence[str], rules: Quality) -> Cleaned:
    """Returns the documents after the steps ``normalize`` and ``quality`` (those that see one document at a time).

    Args:
        documents: Columns id, text, source, language ("" where unknown: it is guessed from the script).
        steps: Which steps to take.
        rules: Limits of the quality step.
    """
    text = documents["text"]
    if "normalize" in steps:
        text = normalize(text)
    guessed = pc.if_else(pc.greater(han_share(text), CHINESE_SHARE), "zh", "en")
    language = pc.if_else(pc.equal(documents["language"], ""), guessed, documents["language"])
    table = documents.set_column(1, "text", text).set_column(3, "language", language)
    if "quality" not in steps:
        return Cleaned(table, {}, {})
    reason = judge(text, rules)
    counts = {item["values"]: item["counts"] for item in pc.value_counts(reason).to_pylist() if item["values"]}
    samples = {each: table["id"].filter(pc.equal(reason, each)).slice(0, 5).to_pylist() for each in counts}
    return Cleaned(table.filter(pc.is_null(reason)), counts, samples)
