"""Quality rules on whole columns; each document is kept, or dropped with the first reason that holds."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Quality

# What UTF-8 read as Latin-1, Windows-1252 or GBK looks like, beside the replacement character itself: a lead byte of
# two or three with its continuation bytes behind it. "café’s" and "passé”…" are good English, so é needs two behind
# it and no letter before it.
_CONTINUATION = r"[\x{0080}-\x{00BF}ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™\x{FFFD}]"
_WRONG_DECODING = rf"\x{{FFFD}}|锟斤拷|烫烫烫|[ÂÃ]{_CONTINUATION}|(?:â|(?:^|[^A-Za-z])[ã-ï]){_CONTINUATION}{{2}}"


def judge(texts: pa.ChunkedArray | pa.Array, rules: Quality) -> Any:
    """Returns for each text the reason to drop it, or null to keep it.

    Reasons: ``too_short``, ``too_long``, ``wrong_decoding``, ``markup``, ``few_letters``.
    """
    length = pc.cast(pc.utf8_length(texts), pa.float64())
    dense = pc.max_element_wise(pc.cast(pc.count_substring_regex(texts, r"\S"), pa.float64()), 1.0)
    letters = pc.divide(pc.cast(pc.count_substring_regex(texts, r"\p{L}"), pa.float64()), dense)
    markup_free = pc.utf8_length(pc.replace_substring_regex(texts, r"<[^>]{1,500}>", ""))
    markup = pc.subtract(1.0, pc.divide(pc.cast(markup_free, pa.float64()), pc.max_element_wise(length, 1.0)))
    broken = pc.divide(pc.cast(pc.count_substring_regex(texts, _WRONG_DECODING), pa.float64()), dense)
    return pc.case_when(
        pc.make_struct(
            pc.less(length, rules.min_characters),
            pc.greater(length, rules.max_characters),
            pc.greater(broken, rules.max_replacement_share),
            pc.greater(markup, rules.max_markup_share),
            pc.less(letters, rules.min_letter_share),
        ),
        "too_short",
        "too_long",
        "wrong_decoding",
        "markup",
        "few_letters",
    )


def han_share(texts: pa.ChunkedArray | pa.Array) -> Any:
    """Returns the share of Chinese characters among all letters of each text, 0 where there are none."""
    letters = pc.cast(pc.count_substring_regex(texts, r"\p{L}"), pa.float64())
    return pc.divide(
        pc.cast(pc.count_substring_regex(texts, r"\p{Han}"), pa.float64()), pc.max_element_wise(letters, 1.0)
    )
