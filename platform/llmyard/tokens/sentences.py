"""Where sentences begin, told from token ids alone: what each id of a vocabulary may do is found once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llmyard.core.compiled import I64, U8
from llmyard.tokens.tokenizer import CONTROL, UNKNOWN, Tokenizer

# What a token may do. STOP ends a sentence; POINT does where the next token may BEGIN one (in "3.14" it may not);
# CLOSE is a quote or bracket that still belongs to what it closes.
STOP, POINT, CLOSE, BEGIN = 1, 2, 4, 8
_STOPS = "。！？…‼⁇⁈⁉｡"
_POINTS = ".!?"
_CLOSING = "\"'”’」』）)]】》〉"
_OPENING = "“‘「『（([【《〈"


def sentence_marks(tokenizer: Tokenizer) -> U8:
    """Returns for each id of a vocabulary what it may do, as bits.

    A vocabulary so small that it spells ``。`` byte by byte knows no Chinese sentence ends. WordPiece loses spaces and
    line breaks: there a point ends a sentence before any word that is no number.
    """
    return _marks(tokenizer.to_json())


@lru_cache(4)
def _marks(tokenizer_json: str) -> U8:
    tokenizer = Tokenizer.from_json(tokenizer_json)
    control = {tokenizer.control(token) for token in CONTROL}
    texts = ["" if each in control else tokenizer.decode([each]) for each in range(tokenizer.vocab_size)]
    keeps_spaces = any(text[:1] == " " for text in texts)
    return np.array([_mark(text, keeps_spaces) for text in texts], np.uint8)


def _mark(text: str, keeps_spaces: bool) -> int:
    if not text:
        return 0
    first = text[0]
    # A Chinese character may begin a sentence right after a point.
    begins = first.isspace() or "\u3400" <= first <= "\u9fff"
    begins = begins or (not keeps_spaces and (first.isalpha() or first == UNKNOWN))
    mark = BEGIN if begins else 0
    bare = text.rstrip()
    core = bare.rstrip(_CLOSING + _OPENING)
    if "\n" in text or core[-1:] in tuple(_STOPS):
        mark |= STOP
    elif core[-1:] in tuple(_POINTS):
        mark |= POINT
    elif bare and not core and all(character in _CLOSING for character in bare):
        mark |= CLOSE
    return mark


def sentence_starts(ids: I64, marks: U8) -> I64:
    """Returns where in a stretch of tokens sentences begin; the first at 0.

    A sentence ends with its marks (``？！``, ``...``), the quotes closed after them, and line breaks.

    Args:
        ids: The tokens.
        marks: Of the vocabulary.
    """
    if len(ids) < 2:
        return np.zeros(min(len(ids), 1), np.int64)
    found = marks[ids]
    others = np.where(found & CLOSE, -1, np.arange(len(ids)))
    before = np.maximum.accumulate(others)  # the last token that closes nothing
    ended = np.where(before >= 0, found[before], 0)[:-1]
    following = found[1:]
    ends = (ended & STOP) | ((ended & POINT) & np.where(following & BEGIN, POINT, 0))
    goes_on = following & (STOP | POINT | CLOSE)
    return np.append(0, np.flatnonzero((ends != 0) & (goes_on == 0)) + 1)
