"""Lines that many documents share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from llmyard.text.common_lines import line_keys, without_lines
from llmyard.text.duplicates import common

MENU = "首页 | 新闻 | 关于我们 | 联系方式"
NOTE = "Subscribe to our newsletter today"
PAGES = [f"{MENU}\n第{page}篇文章讲的是不同的事情，一共有{page * 7}段。\n  {NOTE}\t\nshort" for page in range(6)]


def found(texts: list[str], documents: int, least_bytes: int = 10) -> list[str]:
    keys, rows = line_keys(pa.array(texts, pa.string()), least_bytes)
    shared = common(keys, rows.astype(np.int64), documents)
    return list(without_lines(pa.array(texts, pa.string()), shared, least_bytes)[0].to_pylist())


def test_what_stands_on_more_pages_than_it_may_goes_from_all() -> None:
    wanted = [f"第{page}篇文章讲的是不同的事情，一共有{page * 7}段。\nshort" for page in range(6)]
    assert found(PAGES, 5) == wanted
    assert found(PAGES, 6) == PAGES
    assert found([f"{MENU}\n{MENU}\n{MENU}", "another page"], 1) == [f"{MENU}\n{MENU}\n{MENU}", "another page"]


def test_short_lines_stay_and_a_page_of_nothing_else_is_empty() -> None:
    assert found([NOTE, NOTE, f"{NOTE}\n{NOTE}"], 2) == ["", "", ""]
    assert found(["short"] * 9, 2) == ["short"] * 9


@given(st.lists(st.text(st.sampled_from("ab中\n \t"), max_size=30), max_size=8), st.integers(1, 4))
def test_lines_that_are_not_common_are_what_they_were(texts: list[str], documents: int) -> None:
    def lines_of(text: str) -> list[str]:
        return text.removesuffix("\n").split("\n")

    def bare(line: str) -> str:
        return line.strip(" \t\r")

    stands_in = Counter(line for text in texts for line in {bare(line) for line in lines_of(text)})
    gone = {line for line, count in stands_in.items() if count > documents and len(line.encode()) >= 2}
    results = found(texts, documents, 2)
    if not gone:
        assert results == texts
        return
    for text, result in zip(texts, results, strict=True):
        kept = [line for line in lines_of(text) if bare(line) not in gone]
        assert [line for line in lines_of(result) if line] == [line for line in kept if line]
