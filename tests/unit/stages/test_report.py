"""The page after ``prepare``: what was counted stands on it, in both languages, and no text becomes markup."""

from __future__ import annotations

from typing import Any

import pytest

from llmyard.stages.preparing.report import PAGES, pages

DETAILS: dict[str, Any] = {
    "vocab_size": 4000,
    "corpus": {"sources": [{"kind": "files", "name": "网络"}]},
    "funnel": [
        ["read", "documents", "网络", "zh", 12], ["read", "characters", "网络", "zh", 3000],
        ["quality", "documents", "网络", "zh", 9], ["quality", "characters", "网络", "zh", 2500],
        ["kept", "documents", "网络", "zh", 8], ["kept", "characters", "网络", "zh", 2400],
        ["kept", "bytes", "网络", "zh", 7200], ["kept", "words", "网络", "zh", 2000],
        ["kept", "tokens", "网络", "zh", 1600],
    ],
    "histograms": [["characters", "zh", 4, 8], ["stop_share", "zh", 6, 8]],
    "samples": {
        "": [{"id": "a#1", "language": "zh", "text": "好的文章"}],
        "toxic": [{"id": "a#2", "language": "zh", "text": "<script>alert(1)</script>"}],
    },
    "groups": [{"id": "a#3", "language": "zh", "text": "重复的文章", "members": 3}],
    "bad_records": [{"path": "a.jsonl", "offset": 77, "reason": "not JSON", "excerpt": "{broken"}],
}  # fmt: skip
COUNTS = {"dropped_toxic": 3, "dropped_duplicate": 1, "duplicate_exact": 1, "masked_phone": 5}


@pytest.mark.parametrize(("language", "said"), [("en", "12 documents were read, 8 are kept"), ("zh", "读取 12 篇文档")])
def test_what_was_counted_stands_on_the_page(language: Any, said: str) -> None:
    page = pages("语料", DETAILS, COUNTS)[PAGES[language]]
    for text in (said, "语料", "网络", "好的文章", "toxic", "重复的文章", "a.jsonl, 77", "phone", "1.50", "0.80"):
        assert text in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_corpus_of_which_nothing_is_special_has_a_page_too() -> None:
    plain = {**DETAILS, "histograms": [], "samples": {}, "groups": [], "bad_records": []}
    page = pages("x", plain, {})["report.html"]
    assert page.count("none") >= 3
