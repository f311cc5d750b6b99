"""Documents that hold passages of evaluation sets: they share long n-grams (Brown et al. 2020, appendix C)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.compiled import I64, U8, U64, Bools, compiled
from llmyard.core.errors import RequestError
from llmyard.core.files import plain_name, read_file
from llmyard.text.config import Decontamination
from llmyard.text.repetition import UNITS_OF_A_WORD
from llmyard.text.units import Units, mix, units_of

_BASE = 0x9E3779B97F4A7C15


def judge_overlap(units: Units, unspaced: Bools, config: Decontamination) -> Any:
    """Returns for each text ``contaminated`` if it holds an n-gram of the evaluation texts, or null.

    Args:
        units: Of the texts.
        unspaced: Which texts are of a script without spaces: their n-grams are twice as long in units.
        config: The evaluation texts.

    Raises:
        RequestError: A file is missing, or holds no text long enough.
    """
    found = np.zeros(len(units.offsets) - 1, np.bool_)
    for width, chosen in ((config.ngram, ~unspaced), (config.ngram * UNITS_OF_A_WORD, unspaced)):
        known = _ngrams(config.paths, width)
        if len(known):
            found |= _overlap(units.hashes, units.offsets, known, _filter(known), width) & chosen
    return pc.if_else(pa.array(found), "contaminated", pa.scalar(None, pa.string()))


@cache
def _ngrams(paths: tuple[str, ...], width: int) -> U64:
    """Returns the sorted n-grams of all evaluation texts; those of a process stay in memory."""
    texts = [text for path in paths for text in _strings(path)]
    units = units_of(pa.array(texts, pa.string()))
    return np.unique(_rolling(units.hashes, units.offsets, width))


def _strings(path: str) -> Iterator[str]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"cannot read the evaluation texts at {path}: {error}", "check `decontaminate.paths`"
        ) from None
    suffix = Path(plain_name(path)).suffix
    if suffix not in (".jsonl", ".json"):
        yield text
        return
    try:
        values = [json.loads(text)] if suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
    except ValueError as error:
        raise RequestError(
            f"{path} is not JSON: {error}", "give JSON lines (.jsonl), JSON (.json) or plain text"
        ) from None
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            values.extend(value.values() if isinstance(value, dict) else value)


def _filter(known: U64) -> U8:
    """Returns a table of one bit a hash: most n-grams of a corpus are found to be unknown by one look."""
    bits = np.zeros(1 << max(10, (16 * len(known)).bit_length()), np.uint8)
    bits[known & np.uint64(len(bits) - 1)] = 1
    return bits


@compiled
def _rolling(hashes: U64, offsets: I64, width: int) -> U64:
    result = np.empty(len(hashes), np.uint64)
    count = 0
    for text in range(len(offsets) - 1):
        for at in range(offsets[text], offsets[text + 1] - width + 1):
            value = np.uint64(0)
            for index in range(width):
                value = value * np.uint64(_BASE) + hashes[at + index]
            result[count] = mix(value)
            count += 1
    return result[:count]


@compiled
def _overlap(hashes: U64, offsets: I64, known: U64, bits: U8, width: int) -> Bools:
    found = np.zeros(len(offsets) - 1, np.bool_)
    high = np.uint64(1)
    for _ in range(width):
        high *= np.uint64(_BASE)
    mask = np.uint64(len(bits) - 1)
    for text in range(len(offsets) - 1):
        low = offsets[text]
        value = np.uint64(0)
        for at in range(low, offsets[text + 1]):
            value = value * np.uint64(_BASE) + hashes[at]
            if at >= low + width:
                value -= hashes[at - width] * high
            if at >= low + width - 1:
                key = mix(value)
                if bits[key & mask]:
                    place = np.searchsorted(known, key)
                    if place < len(known) and known[place] == key:
                        found[text] = True
                        break
    return found
