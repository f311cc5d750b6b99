"""Dialogues: how varied the answers are, and how a slot's values are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from llmyard.core.errors import DataError
from llmyard.metrics.summaries import units_of

_SPACES_BESIDE_CHINESE = re.compile(r"(?<=[\u3400-\u9fff])\s+|\s+(?=[\u3400-\u9fff])")


def distinct(responses: Sequence[str], size: int, language: str) -> float:
    """Returns distinct-1 or -2 (Li et al. 2016): different n-grams of all responses, over all their units; 0 to 1.

    Units are lower-cased words, in Chinese characters (:func:`llmyard.metrics.summaries.units_of`). As in the paper the
    denominator is the number of units for every n, so distinct-2 stays a little below 1. Being different is no property
    of a single response: the figure has no values of examples, and falls as responses are added.

    Args:
        responses: What the model said.
        size: Units in an n-gram: 1 or 2.
        language: "zh" counts characters, everything else words.

    Raises:
        DataError: No response has a unit.
    """
    found: set[tuple[str, ...]] = set()
    total = 0
    for response in responses:
        units = units_of(response, language)
        total += len(units)
        found.update(tuple(units[start : start + size]) for start in range(len(units) - size + 1))
    if not total:
        raise DataError(
            f"{len(responses)} responses hold no words", "give what the model said, and its language (zh or en)"
        )
    return len(found) / total


def normalized_value(value: str) -> str:
    """Returns a slot's value as it is compared: NFKC (full width becomes half), lower case, single spaces.

    Spaces beside Chinese characters go: a tokenizer's decoder puts them there.
    """
    folded = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    return _SPACES_BESIDE_CHINESE.sub("", folded)
