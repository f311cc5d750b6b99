"""Wrongly decoded text put right, and one width and one script of Chinese characters where that is asked for.

To run before ``normalize``, which removes the no-break spaces and soft hyphens that mojibake needs to be read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Encoding

# Bytes 80 to BF as Latin-1 and Windows-1252 show them: what follows a lead byte of UTF-8.
_CONTINUATION = r"\x{0080}-\x{00BF}ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™\x{FFFD}"
_AS_LATIN = rf"[Â-ß][{_CONTINUATION}]|[à-ï][{_CONTINUATION}]{{2}}|ðŸ|[\x{{0080}}-\x{{009F}}]"
# How the UTF-8 of the most frequent Chinese signs (，。、的了是在有) begins when it is read as GBK.
_AS_GBK = "锛|銆|鐨|鈥|涓|鍦|浜|鏄"
_GBK_MARKS = re.compile(_AS_GBK)
_FULL_WIDTH = "[０-９Ａ-Ｚａ-ｚ]"
_NARROW = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}


@dataclass(frozen=True, slots=True)
class Repaired:
    """Attributes:
    texts: The column.
    counts: How many texts were "repaired", "narrowed" and "simplified".
    """

    texts: Any
    counts: dict[str, int]


def repair(texts: pa.ChunkedArray | pa.Array, languages: Any, config: Encoding) -> Repaired:
    """Returns the texts with the wanted repairs.

    Args:
        texts: The column; rows without a suspicious character are not looked at one by one.
        languages: The language of each row; only "zh" rows are simplified.
        config: Which repairs.
    """
    counts: dict[str, int] = {}
    if config.repair:
        texts, counts["repaired"] = _changed(texts, _matches(texts, f"{_AS_LATIN}|{_AS_GBK}"), reread)
    if config.narrow:
        texts, counts["narrowed"] = _changed(texts, _matches(texts, _FULL_WIDTH), lambda text: text.translate(_NARROW))
    if config.simplify:
        convert, traditional = _converter()
        rows = pc.and_(_matches(texts, traditional), pc.fill_null(pc.equal(languages, "zh"), False))
        texts, counts["simplified"] = _changed(texts, rows, convert)
    return Repaired(texts, counts)


def reread(text: str) -> str:
    """Returns the text with UTF-8 that was taken for Latin-1, Windows-1252 or GBK decoded again; else the same text."""
    from ftfy import TextFixerConfig, fix_text

    only_encoding = TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
        uncurl_quotes=False, fix_line_breaks=False, fix_surrogates=False, remove_control_chars=False,
        normalization=None,
    )  # fmt: skip
    marks = _GBK_MARKS.findall(text)
    if len(marks) * 100 >= len(text):  # each hundredth character or more: 锛 is a rare character, and is not alone here
        read = _as_gbk(text)
        if read != text:
            return read
    return fix_text(text, only_encoding)


def _as_gbk(text: str) -> str:
    """Bytes that the wrong reading could not show are lost; a text that lost more than one in twenty stays as it is."""
    data = text.replace("\ufffd", "\x1a").encode("gb18030", "replace").replace(b"\x1a", b"")
    read = data.decode("utf-8", "replace")
    return read if read.count("\ufffd") * 20 <= len(read) else text


def _matches(texts: Any, pattern: str) -> Any:
    return pc.fill_null(pc.match_substring_regex(texts, pattern), False)


def _changed(texts: Any, rows: Any, change: Callable[[str], str]) -> tuple[Any, int]:
    """The column with the marked rows changed, and how many really did change."""
    if not pc.any(rows).as_py():
        return texts, 0
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    mask = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    before = whole.filter(mask).to_pylist()
    after = [change(text) for text in before]
    different = sum(old != new for old, new in zip(before, after, strict=True))
    return (pc.replace_with_mask(whole, mask, pa.array(after, whole.type)), different) if different else (texts, 0)


@cache
def _converter() -> tuple[Callable[[str], str], str]:
    """OpenCC's traditional-to-simplified conversion, and a pattern of the characters it changes."""
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    characters = [chr(code) for code in (*range(0x3400, 0xA000), *range(0xF900, 0xFB00))]
    simplified = convert("\n".join(characters)).split("\n")
    return convert, f"[{''.join(old for old, new in zip(characters, simplified, strict=True) if old != new)}]"
