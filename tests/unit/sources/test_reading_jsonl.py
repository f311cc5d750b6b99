"""JSON lines: every line is a document or a bad record, whichever way and in whatever parts the file is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmyard.sources.batches import Origin
from llmyard.sources.config import Files, Limits
from llmyard.sources.corpus import BadRecord, Unit, plan, read
from llmyard.sources.fields import Fields
from llmyard.sources.formats.jsonl import read_json_lines
from llmyard.sources.streams import Stream


def test_bad_lines_are_quarantined_one_by_one(read_bytes: Any) -> None:
    lines = [
        json.dumps({"text": "好的第一行"}).encode(),
        b'{"text": "cut',
        b"",
        b'{"text": "\xff\xfe"}',
        json.dumps({"title": "no text"}).encode(),
        json.dumps({"text": ""}).encode(),
        json.dumps({"text": ["两", "段"]}).encode(),
        json.dumps({"text": 3}).encode(),
        b"[1]",
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text": "ok", "n": ' + b"9" * 5000 + b"}",
        '{"text": "行分隔\u2028符\u0085不分行，全角ＡＢＣ　空格"}'.encode(),
    ]
    offsets = [sum(len(line) + 2 for line in lines[:number]) for number in range(len(lines))]
    found, bad = read_bytes(b"\r\n".join(lines), "a.jsonl")
    assert [(int(row["id"].rpartition("#")[2]), row["text"]) for row in found] == [
        (offsets[0], "好的第一行"),
        (offsets[6], "两\n段"),
        (offsets[11], "ok"),
        (offsets[12], "行分隔\u2028符\u0085不分行，全角ＡＢＣ　空格"),
    ]
    assert [item.offset for item in bad] == [item.record for item in bad]
    assert [item.offset for item in bad] == [offsets[number] for number in (1, 3, 4, 5, 7, 8, 9, 10)]
    reasons = [item.reason for item in bad]
    for reason, expected in zip(
        reasons,
        [
            "not JSON: Unterminated string starting at at line 1 column 10",
            "not UTF-8 at byte 10",
            "no text in any of the fields text",
            "no text in any of the fields text",
            "the field text holds a number, not a text",
            "no text in any of the fields text: the record is a list",
            "holds half of a surrogate pair, which is no character",
            "not JSON that can be read: nested too deeply",
        ],
        strict=True,
    ):
        assert reason == expected
    assert bad[0].excerpt == '{"text": "cut'
    assert bad[1].excerpt == '{"text": "\\xff\\xfe"}'


def test_bytes_of_another_encoding_are_quarantined(read_bytes: Any) -> None:
    gbk = '{"text": "国标编码"}\n'.encode("gbk")
    utf8 = '{"text": "统一编码"}\n'.encode()
    found, bad = read_bytes(utf8 + gbk + utf8, "a.jsonl")
    assert [row["text"] for row in found] == ["统一编码"] * 2
    assert [(item.offset, item.reason) for item in bad] == [(len(utf8), "not UTF-8 at byte 10")]
    assert bad[0].excerpt.startswith('{"text": "\\xb9\\xfa')


def test_byte_order_marks_and_line_ends_are_no_matter(read_bytes: Any) -> None:
    found, bad = read_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n \r\n\xef\xbb\xbf{"text": "b"}\r\n{"text":"c"}', "a.jsonl")
    assert [(row["id"].rpartition("#")[2], row["text"]) for row in found] == [("3", "a"), ("21", "b"), ("39", "c")]
    assert bad == []
    assert read_bytes(b"", "b.jsonl") == ([], [])
    assert read_bytes(b"\xef\xbb\xbf", "c.jsonl") == ([], [])


def test_the_first_field_that_is_not_empty_is_the_text(read_bytes: Any) -> None:
    lines = [
        {"body": "b", "lang": "zh", "url": "http://x/书"},
        {"text": "t", "body": "b", "lang": None},
        {"text": "", "body": "b"},
        {"text": None, "body": "b", "lang": "fr"},
        {"lang": "zh"},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    fields = {"text_fields": ("text", "body"), "language_field": "lang", "url_field": "url", "language": "en"}
    found, bad = read_bytes(data, "a.jsonl", **fields)
    assert [(row["text"], row["language"], row["url"]) for row in found] == [
        ("b", "zh", "http://x/书"), ("t", "en", ""), ("b", "en", ""), ("b", "fr", ""),
    ]  # fmt: skip
    assert [item.reason for item in bad] == ["no text in any of the fields text, body"]
    assert bad[0].excerpt == '{"lang": "zh"}'
    found, _ = read_bytes(b'{"text": "t", "lang": 3, "url": ["x"]}\n' + data, "b.jsonl", **fields)
    assert [(row["text"], row["language"]) for row in found] == [
        ("t", "en"), ("b", "zh"), ("t", "en"), ("b", "en"), ("b", "fr"),
    ]  # fmt: skip


def test_a_null_between_objects_does_not_kill_the_process(read_bytes: Any) -> None:
    found, bad = read_bytes(b'{"text": "a"}\nnull\n{"text": "b"} null {"text": "c"}\n{"text": "d"}\n', "a.jsonl")
    assert [row["text"] for row in found] == ["a", "d"]
    assert len(bad) == 2


def test_an_object_over_two_lines_does_not_hide_behind_two_on_one(read_bytes: Any) -> None:
    found, bad = read_bytes(b'{"text": "a"} {"text": "b"}\n{"text":\n"c"}\n{"text": "d"}\n', "a.jsonl")
    assert [row["text"] for row in found] == ["d"]
    assert [item.offset for item in bad] == [0, 28, 37]


@pytest.mark.parametrize("text", ["x" * 10, "字" * 40])
def test_a_record_over_the_limit_is_quarantined_however_it_meets_the_blocks(
    read_bytes: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    long = json.dumps({"text": text * 1000}, ensure_ascii=False).encode()
    data = b'{"text": "before"}\n' + long + b'\n{"text": "after"}\n'
    for block in (64, 1000, 1 << 20):
        monkeypatch.setattr("llmyard.sources.formats.lines.BLOCK_BYTES", block)
        found, bad = read_bytes(data, "a.jsonl", Limits(max_record_bytes=5000))
        assert [row["text"] for row in found] == ["before", "after"]
        assert [item.offset for item in bad] == [19]
        assert "over max_record_bytes = 5,000" in bad[0].reason
        assert bad[0].excerpt.startswith('{"text": "' + text[0])
        found, bad = read_bytes(data, "a.jsonl", Limits(max_record_bytes=len(long)))
        assert len(found) == 3


def test_a_share_of_the_documents_is_the_same_in_any_parts(read_bytes: Any) -> None:
    data = b"".join(b'{"text": "%d"}\n' % number if number % 10 else b'{"text": 3}\n' for number in range(20_000))
    whole, bad = read_bytes(data, "a.jsonl", share=0.1)
    parts, parts_bad = read_bytes(data, "a.jsonl", bytes_per_task=7_777, share=0.1)
    assert whole == parts
    assert bad == parts_bad
    assert 1600 < len(whole) < 2000  # binomial: 1800 ± 5 standard deviations of 40
    assert 130 < len(bad) < 270
    more, _ = read_bytes(data, "a.jsonl", share=0.2)
    assert {row["id"] for row in whole} < {row["id"] for row in more}


def test_batches_are_small_though_the_file_is_large(tmp_path: Path) -> None:
    line = json.dumps({"text": "中文" * 500}, ensure_ascii=False).encode() + b"\n"
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(line * 12_000, 1))
    source = Files(paths=(str(path),), format="auto")
    (unit,) = plan([source], 1)
    sizes = [batch.table["text"].nbytes for batch in read(unit, source, Limits(max_decompressed_ratio=1e6))]
    assert sum(sizes) > 36_000_000
    assert max(sizes) < 10 << 20


TEXTS = st.text(max_size=12)
FRAGMENTS = st.sampled_from(
    [
        b"null", b"\n", b"\r\n", b"}", b"{", b'"', b",", b" ", b"[", b"]", b":", b"NaN", b"-Inf", b"Infinity", b"1e999",
        b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"text"', b'"lang": 3', b"{}", b"true",
        b'\\"', b"\x00", b"\t", b'{"text": {"a": 1}}', b'{"text": "x", "text": "y"}', b'{"text": "x", "text": null}',
        b"9" * 5000, b"01", b"1.", b"[" * 2000 + b"]" * 2000, b"\\", b"\xb9\xfa", b'{"te\\u0078t": "esc"}',
    ]
)  # fmt: skip
VALUES = st.one_of(TEXTS, TEXTS, st.none(), st.integers(), st.floats(), st.lists(TEXTS, max_size=2), st.booleans())
RECORDS = st.dictionaries(st.sampled_from(["text", "body", "lang", "other"]), VALUES, max_size=4)


@st.composite
def json_files(draw: Any) -> bytes:
    ascii_ = draw(st.booleans())
    lines = [json.dumps(record, ensure_ascii=ascii_) for record in draw(st.lists(RECORDS, max_size=8))]
    data = draw(st.sampled_from(["\n", "\r\n", "\n\n", " \n"])).join(lines).encode("utf-8", "surrogatepass")
    data += draw(st.sampled_from([b"", b"\n"]))
    for fragment in draw(st.lists(FRAGMENTS, max_size=2)):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + fragment + data[at + draw(st.integers(0, 3)) :]
    return bytes(data)


def both(path: Path, source: Files, fast: bool) -> tuple[list[dict[str, str]], list[BadRecord]]:
    limits = Limits(max_record_bytes=4500)
    origin = Origin(str(path), "a", source, limits)
    rows, bad = [], []
    with Stream(str(path), limits) as stream:
        for batch in read_json_lines(stream, 0, 0, origin, Fields.of(source), fast=fast):
            rows += batch.table.to_pylist()
            bad += batch.bad
    return rows, bad


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=json_files(), block=st.sampled_from([16, 1000, 1 << 20]))
def test_the_fast_way_and_the_slow_way_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, block: int
) -> None:
    monkeypatch.setattr("llmyard.sources.formats.lines.BLOCK_BYTES", block)
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    source = Files(paths=(str(path),), text_fields=("text", "body"), language_field="lang")
    assert both(path, source, True) == both(path, source, False)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=json_files(), parts=st.integers(1, 60), block=st.sampled_from([16, 1 << 20]))
def test_any_division_gives_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, parts: int, block: int
) -> None:
    monkeypatch.setattr("llmyard.sources.formats.lines.BLOCK_BYTES", block)
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    source = Files(paths=(str(path),), format="jsonl", text_fields=("text", "body"))

    def all_of(units: list[Unit]) -> tuple[list[Any], list[Any]]:
        batches = [batch for unit in units for batch in read(unit, source, Limits(max_record_bytes=4500))]
        bad = [(item.offset, item.reason, item.excerpt) for batch in batches for item in batch.bad]
        return [row for batch in batches for row in batch.table.to_pylist()], bad

    rows, bad = all_of([Unit(0, str(path), 0, 0)])
    divided_rows, divided_bad = all_of(plan([source], 1, parts))
    assert rows == divided_rows
    # Of a line over the limit no more is read than tells that it is; its length may or may not be known.
    assert [item[0] for item in bad] == [item[0] for item in divided_bad]
