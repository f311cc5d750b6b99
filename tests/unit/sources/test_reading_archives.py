"""WARC and WET: pages and texts of a crawl; a damaged record costs itself."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from llmyard.sources.config import Limits


def record(kind: str, body: bytes, url: str = "http://例.cn/书", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    header = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Length: {size}\r\n\r\n"
    return header.encode() + body + b"\r\n\r\n"


def response(page: bytes, *fields: str, status: str = "200 OK", kind: str = "text/html") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + page


def chunked(data: bytes) -> bytes:
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:])) + b"0\r\n\r\n"


PAGE = "<html><body>简体中文，全角　ＡＢＣ</body></html>"
UTF8, GBK = PAGE.encode(), PAGE.encode("gb18030")


def test_pages_of_successful_responses_are_documents(read_bytes: Any) -> None:
    parts = [
        record("warcinfo", b"software: x"),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
        record("response", response(UTF8), "http://one/"),
        record("response", response(UTF8, kind="application/xhtml+xml; charset=UTF-8"), "<http://two/>"),
        record("response", response(b"\x89PNG", kind="image/png")),
        record("response", response(UTF8, status="404 Not Found")),
        record("metadata", b"x"),
        record("conversion", UTF8),
    ]
    data = b"".join(parts)
    for name, content in (
        ("a.warc", data),
        ("a.warc.gz", gzip.compress(data)),
        ("b.warc.gz", b"".join(map(gzip.compress, parts))),
    ):
        found, bad = read_bytes(content, name, language="zh")
        assert [(row["text"], row["url"], row["language"]) for row in found] == [
            (PAGE, "http://one/", "zh"), (PAGE, "http://two/", "zh"),
        ]  # fmt: skip
        assert bad == []
        assert [int(row["id"].partition("#")[2]) for row in found] == [
            sum(map(len, parts[:2])), sum(map(len, parts[:3])),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        response(GBK, kind="text/html; charset=gb2312"),
        response(GBK, kind='text/html; charset="GBK"'),
        response(gzip.compress(GBK), "Content-Encoding: gzip", kind="text/html;charset=gbk"),
        response(chunked(gzip.compress(UTF8)), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        response(chunked(UTF8), "Transfer-Encoding: chunked"),
        response(zlib.compress(UTF8), "Content-Encoding: deflate"),
        response(zlib.compress(UTF8)[2:-4], "Content-Encoding: deflate"),
        # The crawler has undone the encodings and kept the header.
        response(UTF8, "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        response(UTF8, "Content-Encoding: br"),
        response(UTF8, "Content-Encoding: deflate"),
    ],
)
def test_encodings_of_the_response_are_undone(read_bytes: Any, body: bytes) -> None:
    found, bad = read_bytes(record("response", body), "a.warc")
    assert [row["text"] for row in found] == [PAGE]
    assert bad == []


def test_the_text_of_conversion_records_is_the_document(read_bytes: Any) -> None:
    data = record("warcinfo", b"x") + b"".join(
        record("conversion", f"正文{number}　Ａ".encode()) for number in range(3)
    )
    data += record("conversion", "国标".encode("gbk")) + record("conversion", b"last")
    found, bad = read_bytes(gzip.compress(data), "a.warc.wet.gz")
    assert [row["text"] for row in found] == ["正文0　Ａ", "正文1　Ａ", "正文2　Ａ", "last"]
    assert {row["url"] for row in found} == {"http://例.cn/书"}
    assert [item.reason for item in bad] == ["not UTF-8 at byte 0 of the record"]
    assert bad[0].excerpt == "\\xb9\\xfa\\xb1\\xea"


ONE = record("response", response(UTF8), "http://one/")
TWO = record("response", response(UTF8), "http://two/")


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (record("response", response(GBK)), "not UTF-8"),
        (record("response", b"no http at all"), "no HTTP response"),
        (record("response", response(gzip.compress(UTF8)[:-12], "Content-Encoding: gzip")), "cannot be decompressed"),
        (record("response", response(b"\x00" + UTF8, "Content-Encoding: br")), "encoded as br"),
        (record("response", response(b"5\r\nabcde\r\nzz", "Transfer-Encoding: chunked")), "chunked body is damaged"),
        (record("response", response(UTF8), length=9999999), "over max_record_bytes"),
        (record("response", response(UTF8), length=5000), "its length of 5000 is wrong"),
        (record("response", response(UTF8), length=3), "its length of 3 is wrong"),
        (record("request", response(UTF8), length=3), "length of 3 is wrong"),
        (record("response", response(UTF8)).replace(b"Content-Length: ", b"Content-Length: x"), "record's length"),
        (record("response", response(UTF8)).replace(b"Content-Length", b"Content"), "record's length"),
        (b"garbage\r\nmore garbage WARC/1.0\r\n\r\n\r\n", "no WARC record begins here"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n", "the WARC header has no end"),
        (
            record("response", response(gzip.compress(b"<p>" + b"x" * 99999), "Content-Encoding: gzip")),
            "max_record_bytes",
        ),
    ],
)
def test_a_damaged_record_costs_itself(
    read_bytes: Any, monkeypatch: pytest.MonkeyPatch, damaged: bytes, reason: str
) -> None:
    limits = Limits(max_record_bytes=50_000)
    for block in (50, 1 << 20):
        monkeypatch.setattr("llmyard.sources.formats.warc._BLOCK_BYTES", block)
        found, bad = read_bytes(ONE + damaged + TWO, "a.warc", limits)
        if "9999999" in damaged.decode("latin-1"):  # too long to be held, and so to be looked through
            assert [row["url"] for row in found] == ["http://one/"]
        else:
            assert [row["url"] for row in found] == ["http://one/", "http://two/"]
        assert len(bad) >= 1
        assert reason in bad[0].reason
        assert bad[0].offset == len(ONE)


def test_the_records_before_a_cut_are_kept(read_bytes: Any) -> None:
    for cut in (10, 60, 130, len(TWO) - 6):
        found, bad = read_bytes(ONE + TWO[:cut], "a.warc")
        assert [row["url"] for row in found] == ["http://one/"]
        assert len(bad) == 1
    found, bad = read_bytes(ONE + TWO.rstrip(), "a.warc")
    assert (len(found), bad) == (2, [])
    found, bad = read_bytes(gzip.compress(ONE) + gzip.compress(TWO)[:-30], "a.warc.gz")
    assert [row["url"] for row in found] == ["http://one/"]
    assert any("cut short" in item.reason for item in bad)
    assert read_bytes(b"", "a.warc") == ([], [])
    found, bad = read_bytes(b"not a warc at all\n" * 5, "a.warc")
    assert [item.reason for item in bad] == ["no WARC record begins here"]


def test_what_fastwarc_writes_is_read(read_bytes: Any) -> None:
    fastwarc = pytest.importorskip("fastwarc.warc")
    import io

    buffer = io.BytesIO()
    for number in range(3):
        made = fastwarc.WarcRecord()
        made.init_headers(record_type=fastwarc.WarcRecordType.conversion)
        made.headers["WARC-Target-URI"] = f"http://{number}/"
        made.set_bytes_content(f"正文{number}".encode())
        made.write(buffer)
    found, bad = read_bytes(buffer.getvalue(), "a.wet")
    assert [row["text"] for row in found] == ["正文0", "正文1", "正文2"]
    assert bad == []
