"""What is wrong with a written answer at first sight, for lists of errors."""

from __future__ import annotations

from collections import Counter

from llmyard.metrics.summaries import units_of
from llmyard.text.script import mostly_chinese

_RUN = 4  # units
_SHARE = 0.5


def fault_of(said: str, wanted: str) -> str | None:
    """Returns the first of: empty, wrong language, repeats itself, too short, too long; None where it is none of them.

    Too short is less than half as long as what was wanted, too long more than twice.
    """
    if not said.strip():
        return "empty"
    if mostly_chinese(said) != mostly_chinese(wanted):
        return "wrong language"
    if repeats_itself(said) and not repeats_itself(wanted):
        return "repeats itself"
    ratio = len(said) / max(1, len(wanted))
    if not 0.5 <= ratio <= 2:
        return "too short" if ratio < 0.5 else "too long"
    return None


def repeats_itself(text: str) -> bool:
    """Returns whether half of a text's runs of four words, or Chinese characters, stood in it before."""
    units = units_of(text, "zh" if mostly_chinese(text) else "en")
    runs = [tuple(units[at : at + _RUN]) for at in range(len(units) - _RUN + 1)]
    return len(runs) >= 2 * _RUN and len(Counter(runs)) <= (1 - _SHARE) * len(runs)
