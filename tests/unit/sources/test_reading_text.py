"""Plain text and web pages."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from llmyard.sources.config import Files, Limits


def test_a_text_file_is_a_document_with_an_id_that_survives_a_move(tmp_path: Path, read_source: Any) -> None:
    for place in ("here", "there/deeper"):
        folder = tmp_path / place / "书"
        folder.mkdir(parents=True)
        (folder / "三国.txt").write_bytes("\ufeff第一回\r\n桃园三结义\r全角：ＡＢＣ　，。".encode())
    one, _ = read_source(Files(paths=(str(tmp_path / "here" / "书"),), name="书", language="zh"))
    two, _ = read_source(Files(paths=(str(tmp_path / "there/deeper" / "书"),), name="书", language="zh"))
    text = "第一回\n桃园三结义\n全角：ＡＢＣ　，。"
    assert one == two == [{"id": "书/三国.txt#0", "text": text, "source": "书", "language": "zh", "url": ""}]


def test_paragraphs_are_gathered_up_to_the_limit(read_bytes: Any) -> None:
    data = "一二三\n\n四五六\n \n七八九十\n\u3000\u3000\n\n末".encode()
    found, _ = read_bytes(data, "a.txt", document="paragraph", document_characters=6)
    assert [row["text"] for row in found] == ["一二三\n\n四五六", "七八九十\n\n末"]
    assert [row["id"].partition("#")[2] for row in found] == ["0", "1"]
    found, _ = read_bytes(data.replace(b"\n", b"\r\n"), "a.txt", document="paragraph", document_characters=6)
    assert [row["text"] for row in found] == ["一二三\n\n四五六", "七八九十\n\n末"]
    found, _ = read_bytes(data.replace(b"\n", b"\r"), "a.txt", document="paragraph", document_characters=6)
    assert [row["text"] for row in found] == ["一二三\n\n四五六", "七八九十\n\n末"]
    found, _ = read_bytes(b"one\r\ntwo\r\n\r\n three", "a.txt", document="paragraph", document_characters=1)
    assert [row["text"] for row in found] == ["one\ntwo", " three"]
    assert read_bytes(b"", "a.txt", document="paragraph") == ([], [])
    found, _ = read_bytes(b"", "a.txt")
    assert [row["text"] for row in found] == [""]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_paragraphs_are_the_same_whatever_the_blocks(
    read_bytes: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    draw = random.Random(block)
    for _ in range(30):
        parts = ["字", "a b", "\n", "\r\n", "\n\n", "\u3000", " ", "\r", "。", "\u2003\n"]
        text = "".join(draw.choices(parts, k=60))
        monkeypatch.setattr("llmyard.sources.formats.text.BLOCK_BYTES", block)
        found, bad = read_bytes(text.encode(), "a.txt", document="paragraph", document_characters=1)
        lines = text.replace("\r\n", "\n").replace("\r", "\n")
        assert [row["text"] for row in found] == [piece for piece in re.split(r"\n\s*\n", lines) if piece]
        assert bad == []


def test_a_text_file_that_is_not_utf8_is_quarantined_with_path_and_byte(tmp_path: Path, read_source: Any) -> None:
    (tmp_path / "a.txt").write_bytes("好".encode() + b"\xff" + "文".encode())
    (tmp_path / "b.txt").write_text("好文", encoding="utf-8")
    (tmp_path / "c.txt").write_bytes("国标".encode("gbk"))
    found, bad = read_source(Files(paths=(str(tmp_path),)))
    assert [row["text"] for row in found] == ["好文"]
    assert [(item.path, item.record, item.offset, item.reason) for item in bad] == [
        (str(tmp_path / "a.txt"), 0, 3, "not UTF-8 at byte 3"),
        (str(tmp_path / "c.txt"), 0, 0, "not UTF-8 at byte 0"),
    ]
    assert bad[1].excerpt == "\\xb9\\xfa\\xb1\\xea"


def test_a_paragraph_that_is_not_utf8_costs_itself_only(read_bytes: Any) -> None:
    data = "第一段\n\n".encode() + "国标码\n\n".encode("gbk") + "第三段".encode()
    found, bad = read_bytes(data, "a.txt", document="paragraph", document_characters=3)
    assert [row["text"] for row in found] == ["第一段", "第三段"]
    assert [(item.offset, item.reason) for item in bad] == [(11, "not UTF-8 at byte 11")]


def test_a_text_or_a_paragraph_over_the_limit_is_quarantined(read_bytes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(max_record_bytes=100)
    found, bad = read_bytes(b"x" * 101, "a.txt", limits)
    assert found == []
    assert "over max_record_bytes = 100" in bad[0].reason
    monkeypatch.setattr("llmyard.sources.formats.text.BLOCK_BYTES", 30)
    data = b"one\n\n" + b"x" * 300 + b"\n\ntwo\n\nthree"
    found, bad = read_bytes(data, "a.txt", limits, document="paragraph", document_characters=1)
    assert [row["text"] for row in found] == ["one", "two", "three"]
    assert [item.offset for item in bad] == [5]


PAGE = "<html><head>{}<title>新闻</title></head><body><p>简体中文，全角　ＡＢＣ</p></body></html>"


def test_a_page_is_a_document_with_its_markup(read_bytes: Any) -> None:
    found, bad = read_bytes(PAGE.format("").encode(), "a.html")
    assert [row["text"] for row in found] == [PAGE.format("")]
    assert bad == []
    found, _ = read_bytes(PAGE.format("").encode("utf-16"), "b.html")
    assert [row["text"] for row in found] == [PAGE.format("")]


@pytest.mark.parametrize("declared", ["gb2312", "GBK", "gb18030"])
def test_a_page_is_read_in_the_encoding_that_it_declares(read_bytes: Any, declared: str) -> None:
    for meta in (
        f'<meta charset="{declared}">',
        f'<meta http-equiv="Content-Type" content="text/html; charset={declared}">',
    ):
        found, bad = read_bytes(PAGE.format(meta).encode("gb18030"), "a.html")
        assert [row["text"] for row in found] == [PAGE.format(meta)]
        assert bad == []
    found, _ = read_bytes(PAGE.format('<meta charset="big5">').replace("简体", "繁體").encode(), "a.html")
    assert "繁體中文" in found[0]["text"]  # in truth UTF-8


@pytest.mark.parametrize("declared", ["", "utf-8", "no-such", "base64", "undefined", "idna"])
def test_a_page_in_another_encoding_than_it_declares_is_quarantined(read_bytes: Any, declared: str) -> None:
    found, bad = read_bytes(PAGE.format(f'<meta charset="{declared}">').encode("gbk"), "a.html")
    assert found == []
    assert "not UTF-8 at byte" in bad[0].reason
