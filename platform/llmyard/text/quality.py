"""Quality rules on whole columns; each document is kept, or dropped with the first reason that holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.core.compiled import F64
from llmyard.text import repetition
from llmyard.text.config import FineWeb, Gopher, Quality, Repetition
from llmyard.text.statistics import statistics
from llmyard.text.units import Units

Mask = npt.NDArray[np.bool_]
Counts = dict[str, F64]

CHINESE_SHARE = 0.3  # a text with this share of Chinese characters among its letters counts as Chinese

# What UTF-8 read as Latin-1, Windows-1252 or GBK looks like, beside the replacement character itself: a lead byte of
# two or three with its continuation bytes behind it. "café’s" and "passé”…" are good English, so é needs two behind
# it and no letter before it.
_CONTINUATION = r"[\x{0080}-\x{00BF}ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™\x{FFFD}]"
_WRONG_DECODING = rf"\x{{FFFD}}|锟斤拷|烫烫烫|[ÂÃ]{_CONTINUATION}|(?:â|(?:^|[^A-Za-z])[ã-ï]){_CONTINUATION}{{2}}"


def judge(texts: Any, rules: Quality, counts: Counts | None = None, units: Units | None = None) -> Any:
    """Returns for each text the reason to drop it, or null to keep it.

    Args:
        texts: Arrow column of strings.
        rules: The limits.
        counts: :func:`statistics` of the texts, where the caller has them.
        units: Of the texts; needed with repetition rules only.
    """
    counts = statistics(texts) if counts is None else counts
    reasons = np.full(len(texts), "", dtype=object)
    for reason, failed in _failures(texts, rules, counts, units):
        reasons[failed & (reasons == "")] = reason
    return pa.array(reasons, pa.string(), mask=reasons == "")


def han_share(counts: Counts) -> F64:
    """Returns the share of Chinese characters among all letters of each text, 0 where there are none."""
    return counts["han"] / np.maximum(counts["letters"], 1)


def _failures(texts: Any, rules: Quality, counts: Counts, units: Units | None) -> Iterator[tuple[str, Mask]]:
    yield "too_short", counts["characters"] < rules.min_characters
    yield "too_long", counts["characters"] > rules.max_characters
    dense = np.maximum(counts["dense"], 1)
    yield "wrong_decoding", _wrongly_decoded(texts, counts) / dense > rules.max_replacement_share
    yield "markup", counts["tagged"] / np.maximum(counts["characters"], 1) > rules.max_markup_share
    yield "few_letters", counts["letters"] / dense < rules.min_letter_share
    chinese = han_share(counts) > CHINESE_SHARE
    if rules.gopher is not None:
        yield from _gopher(rules.gopher, counts, chinese)
    if rules.repetition is not None:
        assert units is not None, "repetition rules need the texts' units"
        yield from _repetition(rules.repetition, counts, units)
    if rules.fineweb is not None:
        yield from _fineweb(rules.fineweb, counts, chinese)


def _wrongly_decoded(texts: Any, counts: Counts) -> F64:
    """Returns how many traces of wrong decoding each text has; only doubtful ones are looked at closely."""
    found = np.zeros(len(texts))
    doubtful = np.flatnonzero(counts["doubtful"])
    if len(doubtful):
        found[doubtful] = pc.count_substring_regex(texts.take(pa.array(doubtful)), _WRONG_DECODING).to_numpy()
    return found


def _gopher(rules: Gopher, counts: Counts, chinese: Mask) -> Iterator[tuple[str, Mask]]:
    words = np.maximum(counts["words"], 1)
    spaced = np.maximum(counts["words"] - counts["syllables"], 1)
    lines = np.maximum(counts["lines"], 1)
    letters = np.maximum(counts["letters"], 1)
    length = counts["word_characters"] / spaced
    few, many = counts["words"] < rules.min_words, counts["words"] > rules.max_words
    few_zh, many_zh = counts["han"] < rules.min_characters_zh, counts["han"] > rules.max_characters_zh
    yield "gopher_few_words", np.where(chinese, few_zh, few)
    yield "gopher_many_words", np.where(chinese, many_zh, many)
    odd = (length < rules.min_mean_word_length) | (length > rules.max_mean_word_length)
    yield "gopher_word_length", odd & ~chinese
    yield "gopher_symbols", np.maximum(counts["hashes"], counts["ellipses"]) / words > rules.max_symbol_ratio
    yield "gopher_bullets", counts["bullet_lines"] / lines > rules.max_bullet_lines
    yield "gopher_ellipses", counts["ellipsis_lines"] / lines > rules.max_ellipsis_lines
    yield "gopher_no_letters", (counts["lettered_words"] / spaced < rules.min_lettered_words) & ~chinese
    yield "gopher_stop_words", (counts["stop_words"] < rules.min_stop_words) & ~chinese
    yield "gopher_han_share", (counts["han"] / letters < rules.min_han_share_zh) & chinese
    punctuation = counts["punctuation"] / np.maximum(counts["dense"], 1)
    outside = (punctuation < rules.min_punctuation_share_zh) | (punctuation > rules.max_punctuation_share_zh)
    yield "gopher_punctuation", outside & chinese
    stops = counts["stop_characters"] / np.maximum(counts["han"], 1)
    yield "gopher_stop_characters", (stops < rules.min_stop_share_zh) & chinese


def _repetition(rules: Repetition, counts: Counts, units: Units) -> Iterator[tuple[str, Mask]]:
    characters = np.maximum(counts["characters"], 1)
    lines, paragraphs = np.maximum(counts["lines"], 1), np.maximum(counts["paragraphs"], 1)
    yield "repeated_paragraphs", counts["repeated_paragraphs"] / paragraphs > rules.max_repeated_paragraphs
    share = counts["repeated_paragraph_characters"] / characters
    yield "repeated_paragraph_characters", share > rules.max_repeated_paragraph_characters
    yield "repeated_lines", counts["repeated_lines"] / lines > rules.max_repeated_lines
    share = counts["repeated_line_characters"] / characters
    yield "repeated_line_characters", share > rules.max_repeated_line_characters
    unspaced = counts["syllables"] > 0.5 * counts["words"]
    top, repeated = repetition.exceeds(
        units, counts["characters"], unspaced, rules.max_top_ngrams, rules.max_repeated_ngrams
    )
    for n in repetition.TOP:
        yield f"top_{n}_gram", top == n
    for n in repetition.REPEATED:
        yield f"repeated_{n}_grams", repeated == n


def _fineweb(rules: FineWeb, counts: Counts, chinese: Mask) -> Iterator[tuple[str, Mask]]:
    lines = np.maximum(counts["lines"], 1)
    yield "fineweb_line_ends", counts["ended_lines"] / lines < rules.min_ended_lines
    yield "fineweb_short_lines", counts["short_lines"] / lines > rules.max_short_lines
    share = counts["repeated_line_characters"] / np.maximum(counts["line_characters"], 1)
    yield "fineweb_repeated_lines", share > rules.max_repeated_line_characters
    density = counts["lines"] / np.maximum(counts["words"], 1)
    too_dense = np.where(chinese, rules.max_lines_per_character_zh, rules.max_lines_per_word)
    yield "fineweb_line_density", density > too_dense
    if not rules.braces:
        yield "c4_braces", counts["braces"] > 0
