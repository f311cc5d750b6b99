"""Normalisation: one spelling of the same text, and nothing of the text lost."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmyard.text.normalize import normalize


def one(text: str) -> str:
    return str(normalize(pa.array([text], pa.string()))[0].as_py())


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ("一行\r\n二行\r三行", "一行\n二行\n三行"),
        ("\ufeff标题\u200b内\u00ad容", "标题内容"),
        ("段落一\n\n\n\n\n段落二", "段落一\n\n段落二"),
        ("a \t\u00a0 b  \n  c", "a b\nc"),
        ("控\x00制\x07符\x7f", "控制符"),
        ("“全角”，标点：！？（）。", "“全角”，标点：！？（）。"),
        ("  \u3000两端　 ", "两端"),
        ("e\u0301te\u0301", "été"),
        ("été", "été"),
        ("か\u3099", "が"),
        ("한국", "한국"),
        ("ﬁ １２３", "ﬁ １２３"),  # NFC, not NFKC: full-width digits are kept
        ("a < b and c > d", "a < b and c > d"),
        ("", ""),
    ],
)
def test_text_is_brought_to_one_spelling(given_: str, wanted: str) -> None:
    assert one(given_) == wanted


@pytest.mark.parametrize(
    ("html", "wanted"),
    [
        ("<p>第一段</p><p>第二段</p>", "第一段\n第二段"),
        ("<div>a &lt; b &amp; c&nbsp;d</div>", "a < b & c d"),
        ("<script>alert('</p>')</script><p>正文</p>", "正文"),
        ('<a href="x">链接</a>文字', "链接 文字"),
    ],
)
def test_tags_are_dropped_from_html(html: str, wanted: str) -> None:
    assert one(html) == wanted


def test_only_the_html_rows_of_a_column_lose_their_tags() -> None:
    assert normalize(pa.array(["<p>甲</p>", "x <b> y"])).to_pylist() == ["甲", "x <b> y"]
    assert normalize(pa.chunked_array([["<p>甲</p>"], ["乙"]])).to_pylist() == ["甲", "乙"]


def test_an_empty_column_stays_empty() -> None:
    assert normalize(pa.array([], pa.string())).to_pylist() == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_normalising_twice_changes_nothing_more_and_gives_nfc(text: str) -> None:
    once = one(text)
    assert unicodedata.is_normalized("NFC", once)
    if "<" not in once:
        assert one(once) == once
