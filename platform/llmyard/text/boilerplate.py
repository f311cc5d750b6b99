"""What publishers and sites put around a text: book frames, notices, menus, and lines that come again on every page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmyard.text.config import Boilerplate
from llmyard.text.lines import Lines
from llmyard.text.tables import table

_WORD_OF_MENU = 40  # characters of the longest line that is compared with the menu words


@dataclass(frozen=True, slots=True)
class Stripped:
    """Attributes:
    texts: The column without boilerplate; a text of nothing else is empty.
    counts: "frames": texts that lost a publisher's frame; "notices", "menu_lines", "repeated_lines": lines removed.
    """

    texts: Any
    counts: dict[str, int]


def strip_boilerplate(texts: pa.ChunkedArray | pa.Array, config: Boilerplate) -> Stripped:
    """Returns the texts without publishers' frames, notices, menus and lines repeated within a text."""
    counts = dict.fromkeys(("frames", "notices", "menu_lines", "repeated_lines"), 0)
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    whole, counts["frames"] = _without_frames(whole)
    several = pc.fill_null(pc.match_substring(whole, "\n"), False)
    suspected = pc.or_(several, pc.fill_null(pc.match_substring_regex(whole, _any_notice()), False))
    if not pc.any(suspected).as_py():
        return Stripped(whole if counts["frames"] else texts, counts)
    some = whole.filter(suspected)
    lines = Lines.of(some)
    content = pc.utf8_trim_whitespace(lines.content)
    notice, menu = _notices(content), _menus(content, lines.owner)
    repeated = _repeated(content, lines.owner, config) & ~notice & ~menu
    counts |= {"notices": int(notice.sum()), "menu_lines": int(menu.sum()), "repeated_lines": int(repeated.sum())}
    drop = notice | menu | repeated
    if drop.any():
        whole = pc.replace_with_mask(whole, suspected, lines.without(some, drop))
    return Stripped(whole if drop.any() or counts["frames"] else texts, counts)


def outside_frames(ids: Any, texts: Any) -> npt.NDArray[np.bool_]:
    """Returns which documents are a publisher's alone, where a book is cut into several documents of one file.

    These are the ones before the document with the book's header, and those behind the one with its footer.

    Args:
        ids: ``FILE#NUMBER``, the documents of a file in their order.
        texts: Of the same documents.
    """
    outside = np.zeros(len(ids), np.bool_)
    files: npt.NDArray[Any] | None = None
    for publisher in table("boilerplate")["publishers"]:
        marked = np.flatnonzero(pc.match_substring(texts, publisher["mark"]).to_numpy(zero_copy_only=False))
        for row in marked.tolist():
            text = texts[row].as_py()
            header, footer = re.search(publisher["start"], text), re.search(publisher["end"], text)
            if not (header or footer):
                continue
            if files is None:
                names = pc.replace_substring_regex(ids, r"#[^#]*$", "")
                names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
                files = names.dictionary_encode().indices.to_numpy(zero_copy_only=False)
            same = files == files[row]
            if header:
                outside[:row] |= same[:row]
            if footer:
                outside[row + 1 :] |= same[row + 1 :]
    return outside


def _without_frames(texts: pa.Array) -> tuple[pa.Array, int]:
    """Cuts each publisher's header and footer; whichever of the two a text has."""
    removed = 0
    for publisher in table("boilerplate")["publishers"]:
        marked = pc.fill_null(pc.match_substring(texts, publisher["mark"]), False)
        if not pc.any(marked).as_py():
            continue
        before = texts.filter(marked).to_pylist()
        after = [_unframed(text, publisher) for text in before]
        removed += sum(old != new for old, new in zip(before, after, strict=True))
        texts = pc.replace_with_mask(texts, marked, pa.array(after, texts.type))
    return texts, removed


def _unframed(text: str, publisher: dict[str, str]) -> str:
    start = re.search(publisher["start"], text)
    if start:
        text = text[start.end() :]
        credits = re.match(publisher["after_start"], text)
        text = text[credits.end() :] if credits else text
    end = re.search(publisher["end"], text)
    text = text[: end.start()] if end else text
    return text.strip("\r\n") if start or end else text


def _notices(lines: pa.Array) -> npt.NDArray[np.bool_]:
    data = table("boilerplate")
    result = np.zeros(len(lines), np.bool_)
    length = pc.utf8_length(lines)
    for language in ("en", "zh"):
        matches = pc.match_substring_regex(lines, data[f"lines_{language}"])
        short = pc.less_equal(length, data["longest"][language])
        result |= pc.fill_null(pc.and_(matches, short), False).to_numpy(zero_copy_only=False)
    return result


@cache
def _any_notice() -> str:
    data = table("boilerplate")
    return f"(?m)(?:{data['lines_en']})|(?:{data['lines_zh']})"


def _menus(lines: pa.Array, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    data = table("boilerplate")
    words = pa.array(data["menu_words"], lines.type)
    found = np.zeros(len(lines), np.bool_)
    short = pc.less_equal(pc.utf8_length(lines), _WORD_OF_MENU).to_numpy(zero_copy_only=False)
    candidates = pc.utf8_lower(pc.utf8_trim(lines.filter(pa.array(short)), characters=" |>»·•-*"))
    found[short] = pc.is_in(candidates, words).to_numpy(zero_copy_only=False)
    enough = np.bincount(owner[found], minlength=int(owner.max(initial=0)) + 1) >= data["menu_lines"]
    return np.asarray(found & enough[owner])


def _repeated(lines: pa.Array, owner: npt.NDArray[np.int64], config: Boilerplate) -> npt.NDArray[np.bool_]:
    """Marks all but the first of lines that stand in their text more often than they may."""
    result = np.zeros(len(lines), np.bool_)
    long = pc.greater_equal(pc.binary_length(lines), config.repeated_bytes).to_numpy(zero_copy_only=False)
    lettered = pc.match_substring_regex(lines, r"\p{L}").to_numpy(zero_copy_only=False)
    at = (long & lettered).nonzero()[0]
    if not len(at):
        return result
    codes = lines.take(pa.array(at)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keys = owner[at] << 32 | codes
    _, first, inverse, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    again = count[inverse] > config.max_repeats
    again[first] = False
    result[at[again]] = True
    return result
