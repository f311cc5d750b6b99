"""Words of a block list in a text, and how densely they stand.

A list cannot tell use from mention, so nothing is dropped for a word: the score is hits per thousand words (Chinese:
characters), and a history book that quotes one stays below the threshold that a comment of ten words is above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.errors import RequestError
from llmyard.text.automaton import Automaton
from llmyard.text.config import Toxicity
from llmyard.text.tables import lines_of, table
from llmyard.text.units import units_of

_HAN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff]")
_SEPARATOR = re.compile(r"[\t .*_-]")


@dataclass(frozen=True, slots=True)
class Scores:
    """Columns, one value a text.

    Attributes:
        hits: Words of the lists.
        density: Hits per thousand words, or Chinese characters.
    """

    hits: Any
    density: Any


def score(texts: pa.ChunkedArray | pa.Array, config: Toxicity) -> Scores:
    """Returns how many words of the lists are in each text of a column without nulls, and how densely.

    Raises:
        RequestError: A list is missing, or the lists hold no words.
    """
    lists = _lists(config.lists, config.harmless)
    found = lists.automaton.find(texts)
    hits = np.zeros(len(texts), np.int32)
    density = np.zeros(len(texts), np.float32)
    suspected, starts = np.unique(found.row, return_index=True)
    for row, start, stop in zip(suspected.tolist(), starts, [*starts[1:], len(found.row)], strict=False):
        content = texts[row].as_py().encode()
        hits[row] = _hits(
            [
                (int(found.start[i]), int(found.end[i]), lists.phrases[found.phrase[i]])
                for i in range(start, stop)
                if _plausible(content[found.start[i] : found.end[i]].decode(), lists.phrases[found.phrase[i]])
            ],
            lists.harmless,
        )
    rows = hits.nonzero()[0]
    if len(rows):
        density[rows] = 1000 * hits[rows] / np.diff(units_of(texts.take(pa.array(rows))).offsets)
    return Scores(pa.array(hits), pa.array(density))


def judge_toxicity(scores: Scores, config: Toxicity) -> Any:
    """Returns for each text ``toxic`` where its density is above the limit, or null."""
    above = pc.greater(scores.density, pa.scalar(config.max_density, pa.float32()))
    return pc.if_else(above, "toxic", pa.scalar(None, pa.string()))


class _Lists(NamedTuple):
    phrases: list[str]
    harmless: frozenset[str]
    automaton: Automaton


def _hits(spans: list[tuple[int, int, str]], harmless: frozenset[str]) -> int:
    """Counts the longest words that do not overlap and are not part of a harmless one."""
    safe = [(start, end) for start, end, phrase in spans if phrase in harmless]
    count = last = 0
    for start, end, phrase in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= last and phrase not in harmless and not any(a <= start and end <= b for a, b in safe):
            count, last = count + 1, end
    return count


def _plausible(written: str, phrase: str) -> bool:
    """The phrase itself, or a word of four letters or more in disguise, still half letters (4554 is a number)."""
    if not phrase.replace(" ", "").isalpha():
        return written.lower() == phrase.lower()
    if _SEPARATOR.sub(" ", written).lower() == _SEPARATOR.sub(" ", phrase).lower():
        return True
    letters = phrase.replace(" ", "")
    return _can_be_disguised(letters) and 2 * sum(map(str.isalpha, written)) >= len(letters)


def _can_be_disguised(word: str) -> bool:
    return len(word) >= 4 and word.isalpha() and word.isascii()


@cache
def _lists(files: tuple[str, ...], harmless_files: tuple[str, ...]) -> _Lists:
    # One Chinese character alone (奶, 卵) is part of too many words to mean anything.
    bad = {word for file in files for word in lines_of(file) if len(word) > 1 or not _HAN.search(word)}
    if not bad:
        raise RequestError(f"the word lists {', '.join(files)} hold no words", "write one word a line")
    data = table("toxicity")
    harmless = {*data["harmless"], *(word for file in harmless_files for word in lines_of(file))}
    spelt = {" ".join(word) for word in bad if _can_be_disguised(word)}
    phrases = [*sorted(harmless), *sorted(bad - harmless), *sorted(spelt)]
    same = {sign: letter for letter, signs in data["disguises"].items() for sign in signs} | dict.fromkeys(
        "\t.*_-", " "
    )
    return _Lists(phrases, frozenset(harmless), Automaton(phrases, same))
