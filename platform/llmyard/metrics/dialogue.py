"""Dialogues: how varied the answers are, and whether the state (the slots that the user has filled) is followed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError
from llmyard.metrics.measure import refuse_unequal
from llmyard.metrics.summaries import units_of

F64 = npt.NDArray[np.float64]
State = Mapping[str, str | Sequence[str]]

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


def slots_each(predicted: Sequence[State], expected: Sequence[State]) -> F64:
    """Returns for each turn how many slots are right, guessed, wanted; (turns, 3).

    A slot is right when its value is, after :func:`normalized_value`; a slot with an empty value counts as not filled.

    Args:
        predicted: Each turn's slots with their values; of several values the first is taken.
        expected: Each turn's slots with their value, or several of which each is right ("6 pm", "18:00").

    Raises:
        DataError: No turns, or unequal numbers of them.
    """
    refuse_unequal(predicted, expected)
    rows = []
    for said, wanted in zip(predicted, expected, strict=True):
        guesses, truths = _filled(said), _filled(wanted)
        right = sum(values[0] in truths[slot] for slot, values in guesses.items() if slot in truths)
        rows.append((right, len(guesses), len(truths)))
    return np.array(rows, np.float64)


def joint_goal_each(predicted: Sequence[State], expected: Sequence[State]) -> F64:
    """Returns 1 for each turn of which all slots are right and none is missing or too many, else 0; (turns,).

    A state that is rightly empty is right.

    Raises:
        DataError: No turns, or unequal numbers of them.
    """
    rows = slots_each(predicted, expected)
    return np.asarray((rows[:, 0] == rows[:, 1]) & (rows[:, 0] == rows[:, 2]), np.float64)


def _filled(state: State) -> dict[str, list[str]]:
    found = {}
    for slot, given in state.items():
        values = [given] if isinstance(given, str) else list(given)
        if kept := [folded for folded in map(normalized_value, values) if folded]:
            found[slot] = kept
    return found
